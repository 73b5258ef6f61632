"""`ops rebuild` on a bucket and tables in memory."""

import json
import time
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import hour_of
from chalicelib.lake.lake import Lake, Row
from infra.project import OperatorError
from ops.__main__ import main
from tests.stores import Stores

NOW_MS = int(time.time() * 1000)
HOUR = hour_of(NOW_MS - 26 * 3_600_000)


@pytest.fixture(autouse=True)
def an_hour(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    """Two events of one request."""
    at_ms = NOW_MS - 26 * 3_600_000
    rows = [
        Row({"event_id": f"e{n}", "event_type": "click", "occurred_at": at_ms, "user_id": "u"}, at_ms) for n in (1, 2)
    ]
    Lake(stores.bucket).write(hour_folder("shop", HOUR) + "tail-import-1.parquet", rows)
    main(["consolidate", "--stage", "prod", "--project", "shop", "--hour", HOUR])
    capsys.readouterr()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["rebuild", *words, "--stage", "prod", "--json", "--project", "shop", "--hour", HOUR]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_rollups_are_written_from_the_lake(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    for item in stores.items("rollups"):
        if item["pk"]["S"] != "shop#hours":
            stores.rollups.client.delete_item(TableName="rollups", Key={name: item[name] for name in ("pk", "sk")})

    (first,) = printed(capsys, "rollups")
    (again,) = printed(capsys, "rollups")

    assert (first["state"], first["events"], first["wrong"] > 0) == ("repaired", 2, True)
    assert again == {"start": HOUR, "state": "repaired", "events": 2, "wrong": 0}
    assert stores.history.hours("shop", "click", "n", HOUR, HOUR)[HOUR].count == 2


def test_chunks_are_put_back_once(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "events") == [{"written": 1, "there": 0, "expired": 0, "events": 2}]
    assert printed(capsys, "events") == [{"written": 0, "there": 1, "expired": 0, "events": 0}]
    assert len(stores.items("events")) == 1


def test_files_that_are_not_in_order_yet_are_named(stores: Stores) -> None:
    stores.hours.note("shop", HOUR)

    with pytest.raises(OperatorError, match="ops consolidate"):
        main(["rebuild", "events", "--stage", "prod", "--project", "shop", "--hour", HOUR])
