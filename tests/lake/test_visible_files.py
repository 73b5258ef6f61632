"""Which files a query sees: its conditions, evaluated on the names of files."""

from collections.abc import Iterable
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pytest

from chalicelib.base import waits
from chalicelib.base.object_keys import hour_file_name, import_tail_name, tail_name, version_name
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, hour_of
from chalicelib.lake import visible_files
from chalicelib.lake.visible_files import (
    MAX_NAMED_HOURS,
    MAX_NAMED_TAILS,
    UnsettledHour,
    VisibleFiles,
)
from chalicelib.sql.confine import MAX_SENT_LENGTH, confine, read
from chalicelib.sql.query_requests import MAX_SQL_LENGTH

NOW = 1_795_251_600_000
HOUR, OTHER, THIRD = "2026-11-21T08", "2026-11-21T07", "2026-11-20T08"


class File(NamedTuple):
    """A file of the lake."""

    hour: str
    name: str


def version(ms_ago: int, run: str = "ab12cd34") -> str:
    return version_name(NOW - ms_ago, run)


OLD, NEW, YOUNG = version(3 * HOUR_MS), version(2 * HOUR_MS), version(waits.VISIBLE_AGE_MS // 2)
DEAD = version(HOUR_MS, "dead")
TAILS = [tail_name(498_681, f"r{n}", bytes([n])) for n in range(3)]
IMPORTED = import_tail_name("0001.2", b"")
COLUMNS = ("dt", "hr", "name")


def files(hour: str, *versions: str, tails: Iterable[str] = ()) -> list[File]:
    return [
        File(hour, name) for name in (*(hour_file_name(each, part) for each in versions for part in (0, 1)), *tails)
    ]


def seen(visible: VisibleFiles, *every: File) -> tuple[set[File], set[File]]:
    """The files that the query takes as they are, and those of which it leaves copies out."""
    rows = [(*file.hour.split("T"), file.name) for file in every]
    columns = {name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(COLUMNS)}
    with duckdb.connect() as connection:
        connection.register("files", pa.table(columns))

        def found(condition: str) -> set[File]:
            rows = connection.execute(f"SELECT dt || 'T' || hr, name FROM files WHERE {condition}").fetchall()
            return {File(*row) for row in rows}

        settled = set() if visible.unlimited else found(visible.settled("name"))
        return settled, found(visible.unsettled("name")) if visible.hours else set()


def test_of_a_settled_hour_the_version_is_seen_that_was_there_when_the_query_began() -> None:
    every = [*files(HOUR, OLD, tails=TAILS), *files(OTHER, OLD, YOUNG, tails=[IMPORTED])]

    assert seen(VisibleFiles(NOW), *every) == ({*files(HOUR, OLD), *files(OTHER, OLD)}, set())


def test_of_an_open_hour_its_version_is_seen_and_the_tails_that_it_does_not_hold() -> None:
    """Neither files that it replaced or took in, nor those of a run that died, in whole or between two steps."""
    every = files(HOUR, OLD, NEW, DEAD, f"{NEW}.1", tails=[*TAILS, IMPORTED])
    settled = files(OTHER, OLD)

    found = seen(VisibleFiles(NOW, [UnsettledHour(HOUR, NEW, (TAILS[0], IMPORTED))]), *every, *settled)

    assert found == ({*settled}, {*files(HOUR, NEW, tails=[TAILS[0], IMPORTED])})


def test_of_a_closed_hour_no_tail_is_seen() -> None:
    every = files(HOUR, OLD, NEW, tails=TAILS)

    assert seen(VisibleFiles(NOW, [UnsettledHour(HOUR, NEW, ())]), *every) == (set(), {*files(HOUR, NEW)})


def test_a_version_is_seen_at_once_where_it_is_named() -> None:
    every = files(HOUR, OLD, YOUNG)

    assert seen(VisibleFiles(NOW, [UnsettledHour(HOUR, YOUNG, ())]), *every) == (set(), {*files(HOUR, YOUNG)})


def test_of_an_hour_without_a_version_every_tail_is_seen_and_nothing_else() -> None:
    every = files(HOUR, DEAD, tails=TAILS)

    assert seen(VisibleFiles(NOW, [UnsettledHour(HOUR)]), *every) == (set(), {*files(HOUR, tails=TAILS)})


def test_each_hour_has_its_own_tails() -> None:
    """A run's first record may name a tail of each of several hours."""
    every = [*files(HOUR, OLD, tails=TAILS[:1]), *files(OTHER, NEW, tails=TAILS), *files(THIRD, tails=TAILS)]
    hours = [UnsettledHour(HOUR, OLD), UnsettledHour(OTHER, NEW, tuple(TAILS[1:])), UnsettledHour(THIRD)]

    _, found = seen(VisibleFiles(NOW, hours), *every)

    assert found == {
        *files(HOUR, OLD, tails=TAILS[:1]),
        *files(OTHER, NEW, tails=TAILS[1:]),
        *files(THIRD, tails=TAILS),
    }


def test_where_more_tails_are_new_than_a_query_can_name_all_of_the_hour_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(visible_files, "MAX_NAMED_TAILS", 2)
    every = [*files(HOUR, OLD, NEW, tails=TAILS), *files(OTHER, NEW, tails=TAILS)]
    hours = [UnsettledHour(HOUR, NEW, tuple(TAILS[:2])), UnsettledHour(OTHER, NEW, tuple(TAILS[1:]))]

    _, found = seen(VisibleFiles(NOW, hours), *every)

    assert found == {*files(HOUR, NEW, tails=TAILS[:2]), *files(OTHER, NEW, tails=TAILS)}


@pytest.mark.parametrize("number", [201, MAX_NAMED_HOURS])
def test_however_many_hours_are_open_no_replaced_file_is_seen(number: int) -> None:
    names = [hour_of(NOW - n * HOUR_MS) for n in range(number)]
    every = [file for hour in names for file in files(hour, OLD, NEW, DEAD, tails=TAILS)]
    settled = files(hour_of(NOW - 10_000 * HOUR_MS), OLD)

    found = seen(VisibleFiles(NOW, [UnsettledHour(hour, NEW, ()) for hour in names]), *every, *settled)

    assert found == ({*settled}, {file for hour in names for file in files(hour, NEW)})


def test_of_more_hours_than_a_query_can_name_those_are_named_that_hold_other_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after an import of years, whose hours hold nothing but their version."""
    monkeypatch.setattr(visible_files, "MAX_NAMED_HOURS", 2)
    plain = [hour_of(NOW - n * DAY_MS) for n in range(3, 9)]
    hours = [
        *(UnsettledHour(hour, NEW, (), replaced=False) for hour in plain),
        UnsettledHour(HOUR, NEW, ()),
        UnsettledHour(OTHER),
    ]
    every = [*files(HOUR, OLD, NEW, tails=TAILS), *files(OTHER, DEAD, tails=TAILS), *files(THIRD, OLD)]
    every += [file for hour in plain for file in files(hour, NEW)]

    _, found = seen(VisibleFiles(NOW, hours), *every)

    assert found == {
        *files(HOUR, NEW),
        *files(OTHER, tails=TAILS),
        *files(THIRD, OLD),
        *(file for hour in plain for file in files(hour, NEW)),
    }


def test_what_is_late_in_more_hours_than_a_query_can_name_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible_files, "MAX_NAMED_HOURS", 2)
    names = [hour_of(NOW - n * DAY_MS) for n in range(3, 9)]
    every = [file for hour in names for file in files(hour, NEW, tails=TAILS)]

    _, found = seen(VisibleFiles(NOW, [UnsettledHour(hour, NEW, TAILS) for hour in names]), *every)

    assert found == {*every}


def test_an_hour_that_a_consolidation_began_in_is_named_rather_than_one_that_is_plain() -> None:
    assert UnsettledHour(HOUR, NEW, (), replaced=False).is_plain
    assert not UnsettledHour(HOUR, NEW, ()).is_plain
    assert not UnsettledHour(HOUR, NEW, (IMPORTED,), replaced=False).is_plain
    assert not UnsettledHour(HOUR, NEW, replaced=False).is_plain
    assert not UnsettledHour(HOUR, replaced=False).is_plain


def test_the_most_that_a_query_names_leaves_room_for_the_longest_query() -> None:
    tails = tuple(tail_name(498_681 + n, f"{n:032x}", b"") for n in range(MAX_NAMED_TAILS))
    hours = [UnsettledHour(hour_of(NOW - n * HOUR_MS), version(n), ()) for n in range(MAX_NAMED_HOURS)]
    hours[0] = UnsettledHour(hours[0].hour, hours[0].version, tails)

    sent = confine(read("SELECT 1 FROM events"), project="p" * 64, lake_table="d.t", visible=VisibleFiles(NOW, hours))

    assert len(sent) + MAX_SQL_LENGTH < MAX_SENT_LENGTH
