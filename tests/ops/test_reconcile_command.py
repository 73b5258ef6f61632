"""`ops reconcile` on a bucket and table in memory."""

import json
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import hour_start_ms
from chalicelib.lake.lake import Lake, Row
from chalicelib.rollups.closed_table import DAY, Closed
from chalicelib.rollups.facets import COUNTS
from chalicelib.rollups.rollups import Rollups
from infra.project import OperatorError
from ops.__main__ import main
from tests.stores import Stores

HOURS = ["2026-11-19T09", "2026-11-19T10"]
RANGE = ("--project", "shop", "--from", "2026-11-19", "--to", "2026-11-19")


@pytest.fixture(autouse=True)
def two_closed_hours(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    """Each hour has an event."""
    for hour in HOURS:
        row = Row({"event_id": hour, "event_type": "click", "occurred_at": hour_start_ms(hour)}, 1)
        Lake(stores.bucket).write(hour_folder("shop", hour) + "tail-import-1.parquet", [row])
        stores.hours.note("shop", hour)
    main(["consolidate", "--stage", "prod"])
    capsys.readouterr()


def miscount(stores: Stores) -> None:
    """The first hour's count is one too many."""
    kept = stores.closed.get("shop", "click", COUNTS, DAY, "2026-11-19")
    assert kept is not None
    kept.rollups[HOURS[0]].count += 1
    stores.closed.put(
        "shop", "click", COUNTS, DAY, Closed(kept.start, kept.covers, Rollups(kept.rollups), kept.version)
    )


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    assert main(["reconcile", "--stage", "prod", "--json", *words]) == code
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_what_differs_is_told_and_with_a_dry_run_left(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    miscount(stores)
    number = {"event_type": "click", "facet": "n", "number": "count", "shown": 2, "stored": 1}

    rows, said = printed(capsys, *RANGE, "--dry-run", code=1)

    assert rows == [{"start": HOURS[0], "state": "differs", **number}]
    assert "hours: agrees 23, differs 1" in said
    assert printed(capsys, *RANGE, "--dry-run", code=1)[0] == rows
    assert printed(capsys, *RANGE)[0] == [{"start": HOURS[0], "state": "repaired", **number}]
    assert printed(capsys, *RANGE)[0] == []


def test_one_hour_can_be_named_and_its_files_may_be_gone(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = [key for key in stores.objects(hour_folder("shop", HOURS[1])) if "hour-" in key]
    stores.bucket.delete(key)
    for name in stores.objects(hour_folder("shop", HOURS[1])):
        stores.bucket.delete(name)

    assert printed(capsys, "--project", "shop", "--hour", HOURS[0])[0] == []
    rows, _ = printed(capsys, "--project", "shop", "--hour", HOURS[1], code=1)
    assert {(row["state"], row["stored"]) for row in rows} == {("no file", 0)}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "name either --hour, or --from and --to"),
        (["--hour", HOURS[0], "--from", "2026-11-19", "--to", "2026-11-19"], "name either --hour"),
        (["--hour", "2999-01-01T00"], "no hour of that range is over"),
    ],
)
def test_a_range_that_means_nothing_is_refused(stores: Stores, words: list[str], problem: str) -> None:
    with pytest.raises(OperatorError, match=problem):
        main(["reconcile", "--stage", "prod", "--project", "shop", *words])


@pytest.mark.parametrize("command", [["reconcile"], ["rebuild", "rollups"], ["consolidate"]])
def test_a_project_that_is_not_there_is_told(stores: Stores, command: list[str]) -> None:
    with pytest.raises(OperatorError, match="there is no project 'shpo'"):
        main([*command, "--stage", "prod", "--project", "shpo", "--hour", HOURS[0]])


def test_a_time_has_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reconcile", "--stage", "prod", "--project", "shop", "--from", "monday", "--to", "2026-11-19"])
    assert "'monday' is neither a day such as 2026-11-21 nor an hour" in capsys.readouterr().err
