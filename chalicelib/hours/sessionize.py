"""Before an hour is closed: its consolidated file is cut into sessions, and those of the hours around are put together.

What an hour holds of each session is written down first, as the hour's parts. Then the sessions of every hour that
these parts may reach are put together from the parts of all hours around, compared with what is kept, and written where
they differ. So it does not matter which hour comes first, how often, or where a run dies: the hour stays dirty and is
done again. Two runs at once are right as well: who finds, in the end, that parts were written meanwhile, repeats it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from chalicelib.base.time_windows import HOUR_MS, day_of, hour_of, hour_start_ms, hours_of
from chalicelib.events.sessions import REACH_HOURS
from chalicelib.hours.session_files import NOTHING, Listed, SessionFiles, Written
from chalicelib.hours.session_parts import parts_of, sessions_of
from chalicelib.lake.lake import Lake
from chalicelib.rollups.closed_table import DAY, HOUR, WHOLE, Closed, ClosedTable, one
from chalicelib.rollups.closing import NOTHING_COVERED
from chalicelib.rollups.codec import encode
from chalicelib.rollups.facets import COUNTS, DERIVED, SESSIONS, content_of, facets_of, is_empty
from chalicelib.rollups.history import total_of
from chalicelib.rollups.hour_fold import MAX_HELD_BYTES, HourFold
from chalicelib.rollups.rollups import Rollup, Rollups

MAX_PASSES = 5  # of one run
SPEC = DERIVED[SESSIONS]

PutNew = Callable[[str, Sequence[tuple[str, str, str, Closed]]], bool]  # project; type, facet, grain and item of each
Kept = dict[tuple[str, str], Rollup]  # by facet and hour


class Unsteady(Exception):
    """Other runs wrote parts of the hours around all the time; the hour is to come again."""


@dataclass(frozen=True, slots=True)
class Sessionizer:
    """Keeps the sessions of each hour as closed rollups of a type of their own."""

    lake: Lake
    files: SessionFiles
    closed: ClosedTable
    new_token: Callable[[], str]

    def count(self, project: str, hour: str, version: str, keys: Sequence[str]) -> int:
        """Count the sessions that the hour of these files of a version has to do with; returns how many closed items
        changed. The hour is to be dirty meanwhile, so that what a run leaves that dies is put right. Raises Unsteady.
        """
        blocks = parts_of(self.lake.events(keys))
        some = next(blocks, None)
        # Also where there are none: a run that is late with an older version must find this one.
        self.files.write(project, hour, version, chain([some or []], blocks))
        if some is None and self.files.versions(project, hour) == [version]:
            return 0
        return self._count(project, hour, hour, None)

    def keep(self, project: str, hour: str, version: str, events: Iterable[dict[str, Any]]) -> Written | None:
        """Write down the parts of an hour whose events these are, in order of time; `count_days` is to follow.

        None where there are none.
        """
        blocks = parts_of(events)
        some = next(blocks, None)
        return self.files.write(project, hour, version, chain([some], blocks)) if some else None

    def count_days(self, project: str, days: Collection[str], written: Mapping[str, Written], put: PutNew) -> int:
        """Count the sessions of days that were not there before, all of whose hours' parts are `written` down, by hour.

        What is new is handed to `put` a day at a time, in place of some writes for each hour and facet; where that
        answers False, somebody was there, and the day is written as ever. Returns and raises as `count` does.
        """
        first, last = hours_of(min(days), max(days))
        return self._count(project, first, last, _New(frozenset(days), written, put))

    def recount(self, project: str, day: str, *, write: bool) -> int:
        """By how many closed items a UTC day's sessions differ from its hours' parts; with `write`, they are put right.

        Raises as `count` does.
        """
        return self._count(project, *hours_of(day), None, write=write)

    def _count(self, project: str, first: str, last: str, new: "_New | None", *, write: bool = True) -> int:
        changed = 0
        for _ in range(MAX_PASSES):
            reach = 2 * (REACH_HOURS - 1)
            span = _hours_from(first, -reach), _hours_from(last, reach)
            listed = self.files.listed(project, *span)
            changed += self._update(project, first, last, listed, new, write=write)
            if self.files.listed(project, *span) == listed:
                return changed
        raise Unsteady(f"{project} {first}: session parts were written during each of {MAX_PASSES} passes")

    def _update(
        self, project: str, of: str, to: str, listed: Mapping[str, Listed], new: "_New | None", *, write: bool
    ) -> int:
        """Bring the sessions that began within reach of the hours in line with the parts of these files."""
        first, last = _hours_from(of, 1 - REACH_HOURS), _hours_from(to, REACH_HOURS - 1)
        truth = self._truth(project, first, last, listed, new.written if new else NOTHING)
        kept = self._kept(project, first, last)
        changed = 0
        if new:
            known = {hour for _, hour in kept}
            # An hour around that has parts and no sessions is somebody else's, who is at it and will find these parts.
            truth = {hour: rollup for hour, rollup in truth.items() if hour in known or day_of(hour) in new.days}
            for day in sorted(new.days - {day_of(hour) for hour in known}):
                of_day = {hour: rollup for hour, rollup in truth.items() if day_of(hour) == day}
                items = list(_items(day, of_day))
                if items and new.put(project, items):
                    changed += len(items)
                    truth = {hour: rollup for hour, rollup in truth.items() if hour not in of_day}
        different: dict[str, dict[str, Rollup]] = defaultdict(dict)
        for began in sorted({*truth, *(hour for _, hour in kept)}):
            for facet in facets_of(SPEC):
                content = content_of(truth.get(began, Rollup()), facet)
                before = kept.get((facet, began))
                if is_empty(content) if before is None else _bytes(content) == _bytes(before):
                    continue
                different[began][facet] = content
        for day in sorted({day_of(began) for began in different}) if write else ():
            self.closed.note_day(project, day, self.new_token())
            for began, contents in different.items():
                for facet, content in contents.items():
                    if day_of(began) == day:
                        self._write(project, facet, began, content)
            # Once more: another run may have put the day together, and taken the note away, in between.
            self.closed.note_day(project, day, self.new_token())
        return changed + sum(map(len, different.values()))

    def _truth(
        self, project: str, first: str, last: str, listed: Mapping[str, Listed], at_hand: Mapping[str, Written]
    ) -> dict[str, Rollup]:
        """Return the sessions that began in the hours from `first` to `last`, by hour."""
        numbers = hour_start_ms(first) // HOUR_MS, hour_start_ms(last) // HOUR_MS
        bound = MAX_HELD_BYTES // (numbers[1] - numbers[0] + 1)
        folds: dict[int, HourFold] = {}
        again = True
        while again:
            for parts in self.files.read(project, listed, at_hand):
                for number, sessions in sessions_of(parts, *numbers):
                    if number not in folds:
                        folds[number] = HourFold(lambda _: SPEC, max_held_bytes=bound)
                    for user, session in sessions:
                        folds[number].add(SESSIONS, session, user)
            again = bool([number for number, fold in folds.items() if fold.again()])
        return {hour_of(number * HOUR_MS): fold.rollups()[SESSIONS] for number, fold in folds.items()}

    def _kept(self, project: str, first: str, last: str) -> Kept:
        kept: Kept = {}
        for facet in facets_of(SPEC):
            if facet == COUNTS:
                for day in self.closed.read(project, SESSIONS, facet, DAY, day_of(first), day_of(last)):
                    kept |= {(facet, hour): content for hour, content in day.rollups.items() if first <= hour <= last}
            else:
                for item in self.closed.read(project, SESSIONS, facet, HOUR, first, last):
                    kept[facet, item.start] = item.rollups[WHOLE]
        return kept

    def _write(self, project: str, facet: str, hour: str, content: Rollup) -> None:
        if facet == COUNTS:

            def in_day(before: Closed | None) -> Closed:
                day = before or Closed(day_of(hour), {}, Rollups())
                rollups = Rollups({**day.rollups, hour: content})
                return Closed(day.start, {**day.covers, hour: NOTHING_COVERED}, rollups, day.version)

            self.closed.change(project, SESSIONS, facet, DAY, day_of(hour), in_day)
        else:

            def as_hour(before: Closed | None) -> Closed:
                return one(hour, NOTHING_COVERED, content, before.version if before else 0)

            self.closed.change(project, SESSIONS, facet, HOUR, hour, as_hour)


@dataclass(frozen=True, slots=True)
class _New:
    """Days of which nothing was known, and how their items are put."""

    days: frozenset[str]
    written: Mapping[str, Written]
    put: PutNew


def _items(day: str, hours: Mapping[str, Rollup]) -> Iterator[tuple[str, str, str, Closed]]:
    """Event type, facet, grain and item of all that is kept of a day whose sessions are all known."""
    for facet in facets_of(SPEC):
        contents = {
            hour: content for hour, rollup in hours.items() if not is_empty(content := content_of(rollup, facet))
        }
        covers = dict.fromkeys(contents, NOTHING_COVERED)
        if not contents:
            continue
        if facet == COUNTS:
            yield SESSIONS, facet, DAY, Closed(day, covers, Rollups(contents))
            continue
        items = [one(hour, NOTHING_COVERED, content, 0) for hour, content in contents.items()]
        yield from ((SESSIONS, facet, HOUR, item) for item in items)
        yield SESSIONS, facet, DAY, Closed(day, covers, Rollups({WHOLE: total_of(items)}))


def _hours_from(hour: str, hours: int) -> str:
    return hour_of(hour_start_ms(hour) + hours * HOUR_MS)


def _bytes(content: Rollup) -> bytes:
    return encode(Rollups({WHOLE: content}))
