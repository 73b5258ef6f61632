"""`ops rearchive` on a bucket and tables in memory."""

import json
import time
from typing import Any

import pytest

from chalicelib.base.time_windows import HOUR_MS, day_of, hour_of
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from infra.project import OperatorError
from ops.__main__ import main
from tests.stores import Stores, stream_record

NOW_MS = int(time.time() * 1000)
LONG_AGO, LATELY = NOW_MS // HOUR_MS * HOUR_MS - 48 * HOUR_MS, NOW_MS // HOUR_MS * HOUR_MS - 2 * HOUR_MS
PLAIN = Contracts({})


def receive(stores: Stores, at_ms: int, *ids: str, archived: bool) -> None:
    """Events of one user each, stored and counted; `archive` may have lost them."""
    events = [{"event_id": i, "event_type": "click", "occurred_at": at_ms, "user_id": f"of {i}"} for i in ids]
    chunks = list(chunks_of(Message("shop", at_ms, events)))
    stores.events.write(chunks)
    records = [stream_record(chunk, at_ms // HOUR_MS * 10 + n + 5 * archived) for n, chunk in enumerate(chunks)]
    Aggregator(PLAIN, stores.rollups, stores.bucket).aggregate(records, at_ms)
    Compactor(stores.rollups, stores.hours).compact(NOW_MS // 1000)
    if archived:
        Archiver(Lake(stores.bucket), stores.hours, stores.erased).archive(records)


@pytest.fixture(autouse=True)
def two_hours(stores: Stores) -> None:
    """Each has two events, and two that the lake lacks."""
    for at_ms in (LONG_AGO, LATELY):
        receive(stores, at_ms, f"{at_ms}a", f"{at_ms}b", archived=True)
        receive(stores, at_ms, f"{at_ms}c", f"{at_ms}d", archived=False)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["rearchive", "--stage", "prod", "--json", "--project", "shop", *words]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def of_hour(at_ms: int) -> tuple[str, str]:
    return "--hour", hour_of(at_ms)


def days() -> tuple[str, ...]:
    return "--from", day_of(hour_of(LONG_AGO)), "--to", day_of(hour_of(LATELY))


def rows(stores: Stores, at_ms: int) -> list[str]:
    _, keys = stores.folders.keys(stores.hours, "shop", hour_of(at_ms))
    return sorted(row.event["event_id"].removeprefix(str(at_ms)) for row in Lake(stores.bucket).rows(keys))


def counted(stores: Stores, at_ms: int) -> int:
    return stores.history.hours("shop", "click", "n", hour_of(at_ms), hour_of(at_ms))[hour_of(at_ms)].count


def test_a_dry_run_tells_how_many_events_the_lake_lacks_and_leaves_it(
    stores: Stores, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stores.objects(), stores.items("rollups")

    assert printed(capsys, *days(), "--dry-run") == [
        {"hour": hour_of(LONG_AGO), "missing": 2},
        {"hour": hour_of(LATELY), "missing": 2},
    ]
    assert (stores.objects(), stores.items("rollups")) == before


def test_what_is_missing_is_put_back_once_and_counts_once(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    assert [counted(stores, at) for at in (LONG_AGO, LATELY)] == [4, 4]

    assert printed(capsys, *days()) == [
        {"hour": hour_of(LONG_AGO), "archived": 2, "closed": "yes"},
        # Its live numbers stay until the stream has forgotten the records, which the lake does not know.
        {"hour": hour_of(LATELY), "archived": 2, "closed": "not yet"},
    ]
    for at in (LONG_AGO, LATELY):
        assert rows(stores, at) == ["a", "b", "c", "d"]
        assert counted(stores, at) == 4
    assert printed(capsys, *days()) == []
    assert printed(capsys, *days(), "--dry-run") == []


def test_one_hour_can_be_named(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *of_hour(LATELY)) == [{"hour": hour_of(LATELY), "archived": 2, "closed": "not yet"}]
    assert rows(stores, LONG_AGO) == ["a", "b"]


def test_who_was_erased_is_neither_told_nor_put_back(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    stores.erased.put("shop", Marker(digest_of_user("shop", f"of {LONG_AGO}c"), NOW_MS, FOR_EVER_MS))

    assert printed(capsys, *of_hour(LONG_AGO), "--dry-run") == [{"hour": hour_of(LONG_AGO), "missing": 1}]
    assert printed(capsys, *of_hour(LONG_AGO)) == [{"hour": hour_of(LONG_AGO), "archived": 1, "closed": "yes"}]
    assert rows(stores, LONG_AGO) == ["a", "b", "d"]


def test_a_project_and_hours_that_are_over_have_to_be_named(stores: Stores) -> None:
    with pytest.raises(OperatorError, match="there is no project 'shpo'"):
        main(["rearchive", "--stage", "prod", "--project", "shpo", *of_hour(LONG_AGO)])
    with pytest.raises(OperatorError, match="no hour of that range is over"):
        main(["rearchive", "--stage", "prod", "--project", "shop", *of_hour(NOW_MS + 24 * HOUR_MS)])
