"""An hour that is over is closed: its rollups are folded again, from its compacted file, and kept for good by facet.

The file holds each event once, so what closing writes is exact. The live items it takes over are a check on both:
where they differ from the file, closing waits for what may still be on its way, and at last follows the file and says
by how much they differed. domain/closing.py says how readers are kept right meanwhile. Every step may be repeated.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chalicelib import metrics
from chalicelib.domain.closing import HourState
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import HourView
from chalicelib.domain.events import user_of
from chalicelib.domain.facets import ALL_TYPES, COUNTS, DERIVED, all_types, facets_of, is_empty, part_of
from chalicelib.domain.hour_fold import HourFold
from chalicelib.domain.rollups import Rollup, Rollups, RollupSpec, merge_all
from chalicelib.domain.sketches import hash_user
from chalicelib.domain.time_windows import DAY_MS, HOUR_MS, hour_of, hour_start_ms
from chalicelib.storage.closed_table import DAY, HOUR, LEDGER, WHOLE, Closed, ClosedTable, one
from chalicelib.storage.history import total_of
from chalicelib.storage.rollups_table import RollupsTable

if TYPE_CHECKING:
    from chalicelib.storage.lake import Lake

PATIENCE_SECONDS = 1800  # what differs for longer, after the hour's end and its last merge, is not on its way any more
CLEAN_SECONDS = 600  # no reader takes that long from the live items to the closed ones
KEPT_SECONDS = 2 * 3600  # after an hour's end: the last hour is told by the minute from live items alone

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of a try: `difference` is by how many events, type by type, the live items and the file differ."""

    closed: bool
    difference: int
    events: int


@dataclass(frozen=True, slots=True)
class Closer:
    """Closes hours, and closes them again when something was late."""

    contracts: Contracts
    rollups: RollupsTable
    closed: ClosedTable
    stage: str
    lake: "Lake | None" = None  # None where events are handed over

    def settle(self, project: str, hour: str, keys: Sequence[str], now: int, *, follow: bool = False) -> bool:
        """Close the hour of these files, and do what is due of the project besides; False when it is to come again."""
        assert self.lake is not None, "made without a lake"
        closing = self.close(project, hour, self.lake.events(keys), now, follow=follow)
        if closing.closed:
            self.close_days(project, now)
            self.clean(project, now)
        return closing.closed

    def close(
        self, project: str, hour: str, events: Iterable[dict[str, Any]], now: int, *, follow: bool = False
    ) -> Closing:
        """Close the hour whose deduplicated events these are, as they were stored; `now` is epoch seconds.

        Not closed is an hour with open deltas, or one whose live items differ and may not be all there yet. With
        `follow` they are known to differ, because events were erased: nobody waits, and it is no drift.
        """
        state = self.rollups.state(project, hour)  # before the live items: a merge in between makes freezing fail
        view = self.rollups.read_hour(project, hour)
        truth = self.fold(project, hour, lambda: events)
        shown = self._shown(project, hour, view, state)
        difference = sum(abs(truth.get(t, Rollup()).count - shown.get(t, 0)) for t in {*truth, *shown})
        total = sum(rollup.count for rollup in truth.values())
        last_change = max([hour_start_ms(hour) // 1000 + 3600, *(item.merged_at for item in view.merged)])
        if view.deltas or (difference and not follow and now < last_change + PATIENCE_SECONDS):
            return Closing(False, difference, total)
        if not self.rollups.freeze(state):
            return Closing(False, difference, total)
        if difference and not follow:
            extra = {"project": project, "hour": hour, "shown": sum(shown.values()), "stored": total}
            log.warning("live numbers differed from the file, which counts", extra=extra)
            metrics.emit(self.stage, now * 1000, {"EventsDrift": difference})
        self.closed.note_day(project, hour[:10], f"{hour}#{state.epoch}")
        self._write(project, hour, truth, view, state)
        # By another token: who puts the day together while this one writes may take the first note away only.
        self.closed.note_day(project, hour[:10], f"{hour}#{state.epoch}#written")
        self.rollups.mark_closed(project, hour, state.epoch, now)
        return Closing(True, difference, total)

    def close_days(self, project: str, now: int, among: Collection[str] | None = None) -> int:
        """Put together the days that are over, and of which an hour was closed since; returns how many."""
        noted = self.closed.noted_days(project)
        over = {d: token for d, token in noted.items() if _is_over(d, now) and (among is None or d in among)}
        types = {*self.rollups.event_types(project), *DERIVED} if over else set()
        for day, token in over.items():
            self._write_day(project, day, types)
            self.closed.forget_day(project, day, token)
        return len(over)

    def is_cleaned(self, project: str, day: str, now: int) -> bool:
        """Whether no live item of the day's closed epochs is left, once those that may go are deleted."""
        self.clean(project, now)
        left = self.rollups.read_merged(project, f"{day}T00", f"{day}T23")
        return not any(item.epoch <= self.rollups.state(project, item.hour).closed for item in left)

    def clean(self, project: str, now: int) -> int:
        """Delete live items that closed ones have taken over; returns how many."""
        deleted = 0
        last = hour_of((now - KEPT_SECONDS) * 1000 - HOUR_MS)
        states: dict[str, HourState] = {}
        for item in self.rollups.read_merged(project, "0", last):
            if item.hour not in states:
                states[item.hour] = self.rollups.state(project, item.hour)
            state = states[item.hour]
            if item.epoch <= state.closed and state.closed_at < now - CLEAN_SECONDS:
                self.rollups.delete_merged(project, item)
                deleted += 1
        return deleted

    def fold(
        self, project: str, hour: str, read: Callable[[], Iterable[dict[str, Any]]], *, note: bool = True
    ) -> Rollups:
        """Return what the hour's events add up to; they are read twice where they have more values than memory holds.

        Types that the project never sent are noted, unless nothing is to be written.
        """
        contracted = self.contracts.by_type
        known = self.rollups.known(project, again=True)
        fold = HourFold(self.contracts.spec, lambda name: name in contracted or known.names(name, hour))
        while True:
            for event in read():
                if not (event.get("enrichment") or {}).get("bot"):
                    user = user_of(event)
                    fold.add(event["event_type"], event, hash_user(user) if user else None)
            if not fold.again():
                break
        return fold.rollups(
            lambda names: self.rollups.names(project, names, contracted, hour=hour, closing=note, note=note)
        )

    def _shown(self, project: str, hour: str, view: HourView, state: HourState) -> dict[str, int]:
        """Events by type as readers see them now."""
        shown: dict[str, int] = Counter()
        covers: dict[str, int] = {}
        for event_type in self.rollups.event_types(project) if state.frozen >= 0 else ():
            day = self.closed.get(project, event_type, COUNTS, DAY, hour[:10])
            if day and hour in day.covers:
                shown[event_type] = day.rollups[hour].count
                covers[event_type] = day.covers[hour]
        for item in view.merged:
            for event_type, rollup in item.rollups.items():
                if item.epoch > covers.get(event_type, -1):
                    shown[event_type] += rollup.count
        return shown

    def _write(self, project: str, hour: str, truth: Rollups, view: HourView, state: HourState) -> None:
        self._write_ledger(project, hour, view, state)
        again = state.frozen >= 0
        known = self.rollups.event_types(project) if again else []
        for event_type in {*truth, *known}:
            rollup = truth.get(event_type, Rollup())
            for facet in facets_of(self._spec(event_type)):
                self._write_facet(project, event_type, facet, hour, part_of(rollup, facet), state, again)
        everything = all_types(truth)
        for facet in facets_of(DERIVED[ALL_TYPES]):
            self._write_facet(project, ALL_TYPES, facet, hour, part_of(everything, facet), state, again)

    def _write_facet(
        self, project: str, event_type: str, facet: str, hour: str, part: Rollup, state: HourState, again: bool
    ) -> None:
        if is_empty(part) and not again:
            return
        if facet == COUNTS:

            def with_hour(before: Closed | None) -> Closed | None:
                if _is_later(before, hour, state):
                    return None
                day = before or Closed(hour[:10], {}, Rollups())
                rollups = Rollups({**day.rollups, hour: part})
                return Closed(day.start, {**day.covers, hour: state.epoch}, rollups, day.version)

            self.closed.change(project, event_type, facet, DAY, hour[:10], with_hour)
        else:

            def as_hour(before: Closed | None) -> Closed | None:
                return (
                    None
                    if _is_later(before, hour, state)
                    else one(hour, state.epoch, part, before.version if before else 0)
                )

            self.closed.change(project, event_type, facet, HOUR, hour, as_hour)

    def _write_ledger(self, project: str, hour: str, view: HourView, state: HourState) -> None:
        def with_epochs(before: Closed | None) -> Closed:
            covered = before.covers[hour] if before else -1
            ledgers = [before.rollups] if before else []
            ledgers += [item.rollups for item in view.merged if item.epoch > covered]
            ledger = merge_all(Rollups(ledger=rollups.ledger) for rollups in ledgers)
            return Closed(hour, {hour: max(state.epoch, covered)}, ledger, before.version if before else 0)

        self.closed.change(project, LEDGER, LEDGER, HOUR, hour, with_epochs)

    def _write_day(self, project: str, day: str, event_types: Iterable[str]) -> None:
        """Put the day's hours together, facet by facet; of counts the day's item has them one by one already."""
        for event_type in event_types:
            if self.closed.get(project, event_type, COUNTS, DAY, day) is None:
                continue  # no hour of the day has any: counts are written first
            for facet in facets_of(self._spec(event_type)):
                if facet != COUNTS:

                    def of_hours(before: Closed | None, event_type: str = event_type, facet: str = facet) -> Closed:
                        hours = list(self.closed.read(project, event_type, facet, HOUR, f"{day}T00", f"{day}T23"))
                        covers = {hour: epoch for item in hours for hour, epoch in item.covers.items()}
                        version = before.version if before else 0
                        return Closed(day, covers, Rollups({WHOLE: total_of(hours)}), version)

                    self.closed.change(project, event_type, facet, DAY, day, of_hours)

    def _spec(self, event_type: str) -> RollupSpec:
        return DERIVED.get(event_type) or self.contracts.spec(event_type)


def _is_over(day: str, now: int) -> bool:
    return now * 1000 >= hour_start_ms(f"{day}T00") + DAY_MS


def _is_later(before: Closed | None, hour: str, state: HourState) -> bool:
    """Whether another run has closed the hour since, with more in it."""
    return before is not None and before.covers.get(hour, -1) > state.epoch
