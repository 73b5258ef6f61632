"""`ops consolidate` on a bucket and table in memory."""

import json
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import hour_start_ms
from chalicelib.lake.lake import Lake, Row
from infra.project import OperatorError
from ops.__main__ import main
from tests.stores import Stores

HOURS = ["2026-11-20T09", "2026-11-20T10"]


@pytest.fixture(autouse=True)
def two_tails(stores: Stores) -> None:
    """Each hour has an event, which came twice."""
    for hour in HOURS:
        for tail in ("tail-import-1.parquet", "tail-import-2.parquet"):
            row = Row({"event_id": "e", "event_type": "click", "occurred_at": hour_start_ms(hour)}, 1)
            Lake(stores.bucket).write(hour_folder("shop", hour) + tail, [row])
            stores.hours.note("shop", hour)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["consolidate", "--stage", "prod", "--json", *words]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_dry_run_tells_what_waits_and_changes_nothing(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    before = stores.hours.waiting()

    rows = printed(capsys, "--dry-run")

    assert [(row["hour"], row["dirty"], row["files"], row["absorbed"]) for row in rows] == [
        (hour, True, 2, 0) for hour in HOURS
    ]
    assert rows[0]["size_bytes"] > 0
    assert stores.hours.waiting() == before


def test_one_hour_or_all_that_wait_are_consolidated_once(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    one = printed(capsys, "--project", "shop", "--hour", HOURS[1])
    rest = printed(capsys, "--project", "shop")

    assert [(row["hour"], row["rows"], row["duplicates"], row["merged"]) for row in one + rest] == [
        (HOURS[1], 1, 1, 2),
        (HOURS[0], 1, 1, 2),
    ]
    assert printed(capsys) == []
    [described] = printed(capsys, "--project", "shop", "--hour", HOURS[1], "--dry-run")
    assert (described["dirty"], described["files"], described["absorbed"]) == (False, 1, 2)


def test_an_hour_needs_its_project_and_has_to_be_one(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OperatorError, match="--hour needs the --project"):
        main(["consolidate", "--stage", "prod", "--hour", HOURS[0]])
    with pytest.raises(SystemExit):
        main(["consolidate", "--stage", "prod", "--hour", "yesterday"])
    assert "'yesterday' is not an hour such as 2026-11-21T10" in capsys.readouterr().err
