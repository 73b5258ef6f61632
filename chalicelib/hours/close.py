"""An hour is closed: what its file and its live items both hold is folded from the file, and kept for good by facet.

The file holds each event once, so what closing writes is exact. Slot by slot, live items and the file are compared by
the signatures of the stream records in them: as far as they hold the same, closed items take over; the rest stays live
until the next closing. domain/closing says how readers are kept right meanwhile. Every step may be repeated, or come
late: docs/decisions/0028.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from chalicelib.base import metrics, waits
from chalicelib.base.object_keys import hour_folder, slot_of_tail
from chalicelib.base.time_windows import DAY_MS, day_of, day_start_ms, hour_start_ms, hours_of
from chalicelib.events.contracts import Contracts
from chalicelib.events.events import user_of
from chalicelib.lake.hour_folders import Held, HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.rollups.closed_table import DAY, HOUR, LEDGER, WHOLE, Closed, ClosedTable, Conflict, Name, one
from chalicelib.rollups.closing import NOTHING_COVERED, Cover, Hour
from chalicelib.rollups.deltas import HourView
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, DERIVED, all_types, content_of, facets_of, is_empty
from chalicelib.rollups.history import total_of
from chalicelib.rollups.hour_fold import HourFold
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.rollups import OTHER, Rollup, Rollups, RollupSpec, merge_all
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.signatures import NOTHING, Signature, is_forgotten, slot_end
from chalicelib.rollups.sketches import hash_user

ALL_SLOTS = 10**9  # of the ledger, which is in no file

log = logging.getLogger(__name__)

# Puts rows of an hour that the lake lacks back under a slot, at a time; whether there were, or may be, any.
Rearchive = Callable[[str, str, int, int], bool]


@dataclass(frozen=True, slots=True)
class Closing:
    """Whether all that there is of the hour is closed, and the slot that it waits for, if any."""

    closed: bool
    waiting: int | None = None


@dataclass(frozen=True, slots=True)
class Closer:
    """Closes hours, and closes them again when something was late; times are Unix milliseconds."""

    contracts: Contracts
    rollups: RollupsTable
    hours: HoursTable
    closed: ClosedTable
    lake: Lake
    folders: HourFolders
    stage: str
    rearchive: Rearchive

    def close(self, project: str, hour: str, version: str | None, now_ms: int, *, follow: bool = False) -> Closing:
        """Close the hour of this version, as far as its file and its live items agree.

        Not all of it is closed while something is on its way, and where another run was there. What differs for longer
        than the stream remembers is put back from the hot store, and at last the file is followed, with an alarm; with
        `follow` at once, as far as live items lack what it holds.
        """
        before = self.hours.get(project, hour)
        if before.version != version:
            return OVERTAKEN
        day = self.closed.get(project, ALL_TYPES, COUNTS, DAY, day_of(hour))
        closed_before = day.covers.get(hour, NOTHING_COVERED).epoch if day else 0
        if closed_before > before.frozen:  # the hour's item was lost: what is closed now is to be later than that
            if not self.hours.skip_to(before, closed_before):
                return OVERTAKEN
            before = replace(before, frozen=closed_before)
        under_way = {delta.slot for delta in self.rollups.deltas_of(project, hour)}  # before freezing
        held = self.folders.held(before)
        if not self.hours.freeze(before):
            return OVERTAKEN
        live = self._live(before)  # after freezing: what it holds does not change any more
        found, waiting = self._compare(before, held, live, under_way, now_ms, follow=follow)
        if found.upto < before.upto:  # what was late for both is in one of them already; what was closed stays right
            return Closing(False, waiting)
        keys = [hour_folder(project, hour) + name for name in held.current]
        truth = self.fold(project, hour, lambda: self.lake.events(keys, found.upto))
        cover = Cover(before.frozen + 1, found.upto)
        self.closed.note_day(project, day_of(hour), f"{hour}#{cover.epoch}")
        self._write_ledger(before, cover, live)
        self._write(before, cover, truth, live)
        # By another token: who puts the day together while this one writes may take the first note away only.
        self.closed.note_day(project, day_of(hour), f"{hour}#{cover.epoch}#written")
        if not self.hours.mark(before, replace(found, epoch=cover.epoch), now_ms):
            return OVERTAKEN
        return Closing(not found.is_dirty, waiting)

    def close_days(self, project: str, now_ms: int, among: Collection[str] | None = None) -> int:
        """Put together the days that are over, and of which an hour was closed since; returns how many."""
        noted = self.closed.noted_days(project)
        over = {d: token for d, token in noted.items() if _is_over(d, now_ms) and (among is None or d in among)}
        types = {*self.rollups.event_types(project), *DERIVED} if over else set()
        for day, token in over.items():
            self._write_day(project, day, types)
            self.closed.forget_day(project, day, token)
        return len(over)

    def clean(self, hour: Hour, now_ms: int) -> bool:
        """Delete live items that closed ones have taken over; whether none is left of the hour.

        `hour` is as it is marked, so that what a closing has written that was overtaken takes nothing away.
        """
        left = False
        over = hour_start_ms(hour.hour) + waits.KEPT_MS <= now_ms and hour.closed_ms + waits.CLEAN_MS <= now_ms
        for item in self.rollups.read_merged(hour.project, hour.hour, hour.hour):
            if over and hour.cover.hides(item.epoch, item.slot):
                self.rollups.delete_merged(hour.project, item)
            else:
                left = True
        return not left

    def fold(self, project: str, hour: str, read: Callable[[], Iterable[dict[str, Any]]]) -> Rollups:
        """Return what the hour's events add up to; they are read twice where they have more values than memory holds.

        Types that the project never sent are noted.
        """
        contracted = self.contracts.by_type
        known = self.rollups.known(project, again=True)
        fold = HourFold(self.contracts.spec, lambda name: name in contracted or known.has(name, hour))
        while True:
            for event in read():
                if not (event.get("enrichment") or {}).get("bot"):
                    user = user_of(event)
                    fold.add(event["event_type"], event, hash_user(user) if user else None)
            if not fold.again():
                break
        return fold.rollups(lambda types: self.rollups.note_types(project, types, contracted, hour=hour, closing=True))

    def _live(self, before: Hour) -> "_Live":
        """Return what the merged items say that nothing covers yet; one item's rollups are in memory at a time."""
        items = [
            replace(item, rollups=Rollups(dict.fromkeys(item.rollups, Rollup()), item.rollups.ledger))
            for item in self.rollups.read_merged(before.project, before.hour, before.hour)
            if item.epoch <= before.frozen + 1
        ]
        live = _Live()
        for item in HourView.of(before.hour, [], items).merged:  # some may be folded while this reads
            live.ledgers.append((item.epoch, item.rollups.ledger))
            if not before.cover.hides(item.epoch, item.slot):
                live.signatures[item.slot] = live.signatures.get(item.slot, NOTHING) + item.signature
                live.types.update(item.rollups)
        return live

    def _compare(
        self, before: Hour, held: Held, live: "_Live", under_way: Collection[int], now_ms: int, *, follow: bool
    ) -> tuple[Hour, int | None]:
        """Return the hour as it can be closed (`upto`, `covered`, how much is `done`), and the slot that waits."""
        now, in_file = now_ms // 1000, held.manifest.signatures
        unread = {slot_of_tail(name) for name in held.fresh}
        slots = sorted({*before.covered, *in_file, *live.signatures})
        upto, final_slot, covered = before.final_slot, before.final_slot, dict[int, Signature]()
        waiting, in_a_row = None, True
        for slot in slots:
            stored = in_file.get(slot, NOTHING)
            shown = before.covered.get(slot, NOTHING) + live.signatures.get(slot, NOTHING)
            is_final = is_forgotten(slot, now) and slot not in under_way and slot not in unread
            if shown != stored and (slot > before.final_slot or slot in live.signatures):
                is_lost = follow and shown.rows < stored.rows
                if not is_lost and (not is_final or self.rearchive(before.project, before.hour, slot, now_ms)):
                    waiting = slot
                    break
                self._warn(before, slot, shown, stored, now_ms)
            upto = max(upto, slot)
            covered[slot] = stored
            in_a_row = in_a_row and (is_final or slot <= final_slot)
            final_slot = max(final_slot, slot) if in_a_row else final_slot
        all_done = waiting is None and not unread
        since_ms = min(now_ms, slot_end(waiting) * 1000) if waiting is not None else now_ms
        found = replace(
            before,
            upto=upto,
            final_slot=final_slot,
            covered={slot: each for slot, each in covered.items() if slot > final_slot},
            done=before.changes if all_done else before.done,
            since_ms=since_ms,
        )
        return found, waiting

    def _warn(self, hour: Hour, slot: int, shown: Signature, stored: Signature, now_ms: int) -> None:
        extra = {"project": hour.project, "hour": hour.hour, "slot": slot, "shown": shown.rows, "stored": stored.rows}
        log.warning("live numbers differ from the file for good; the file counts", extra=extra)
        metrics.emit(self.stage, now_ms, {"EventsDrift": abs(shown.rows - stored.rows) or 1})

    def _write(self, before: Hour, cover: Cover, truth: Rollups, live: "_Live") -> None:
        """Write an item for every type and facet that has something, or that a reader may take from elsewhere."""
        project, hour = before.project, before.hour
        whole = {**truth, ALL_TYPES: all_types(truth)}
        covered_types = {*live.types, ALL_TYPES} if live.types else live.types
        # An earlier closing may have written these; types that it had no place for are counted as others.
        again = (*self.rollups.event_types(project), OTHER) if before.frozen else ()
        names: list[Name] = [
            (name, facet, DAY, day_of(hour)) if facet == COUNTS else (name, facet, HOUR, hour)
            for name in sorted({*whole, *live.types, *again})
            for facet in self._facets(name)
        ]
        there = dict(self.closed.get_many(project, names))
        for name in names:
            event_type, facet, grain, start = name
            content = content_of(whole.get(event_type, Rollup()), facet)
            known = there.get(name)
            if is_empty(content) and event_type not in covered_types and not (known and hour in known.covers):
                continue

            def change(known: Closed | None, grain: str = grain, content: Rollup = content) -> Closed | None:
                if known and (earlier := known.covers.get(hour)) and earlier.epoch >= cover.epoch:
                    return None  # another run has closed the hour since
                if grain == HOUR:
                    return one(hour, cover, content, known.version if known else 0)
                day = known or Closed(day_of(hour), {}, Rollups())
                return Closed(
                    day.start, {**day.covers, hour: cover}, Rollups({**day.rollups, hour: content}), day.version
                )

            changed = change(known)
            try:
                if changed:
                    self.closed.put(project, event_type, facet, grain, changed)
            except Conflict:
                self.closed.change(project, event_type, facet, grain, start, change)

    def _write_ledger(self, before: Hour, cover: Cover, live: "_Live") -> None:
        """Add what is frozen: the ledger is in no file, so nothing of it waits for a slot."""

        def with_epochs(known: Closed | None) -> Closed | None:
            earlier = known.covers[before.hour].epoch if known else 0
            if known and earlier >= cover.epoch:
                return None
            ledgers = [known.rollups.ledger] if known else []
            ledgers += [ledger for epoch, ledger in live.ledgers if epoch > earlier]
            together = merge_all(Rollups(ledger=ledger) for ledger in ledgers)
            covers = {before.hour: Cover(cover.epoch, ALL_SLOTS)}
            return Closed(before.hour, covers, together, known.version if known else 0)

        self.closed.change(before.project, LEDGER, LEDGER, HOUR, before.hour, with_epochs)

    def _write_day(self, project: str, day: str, event_types: Iterable[str]) -> None:
        """Put the day's hours together, facet by facet; of counts the day's item has them one by one already."""
        for event_type in event_types:
            if self.closed.get(project, event_type, COUNTS, DAY, day) is None:
                continue  # no hour of the day has any: counts are written first
            for facet in self._facets(event_type):
                if facet != COUNTS:

                    def of_hours(before: Closed | None, event_type: str = event_type, facet: str = facet) -> Closed:
                        hours = list(self.closed.read(project, event_type, facet, HOUR, *hours_of(day)))
                        covers = {hour: cover for item in hours for hour, cover in item.covers.items()}
                        version = before.version if before else 0
                        return Closed(day, covers, Rollups({WHOLE: total_of(hours)}), version)

                    self.closed.change(project, event_type, facet, DAY, day, of_hours)

    def _facets(self, event_type: str) -> list[str]:
        spec: RollupSpec = DERIVED.get(event_type) or self.contracts.spec(event_type)
        return list(facets_of(spec))


OVERTAKEN = Closing(False)


@dataclass(slots=True)
class _Live:
    """What an hour's merged items say up to the epoch that is frozen."""

    signatures: dict[int, Signature] = field(default_factory=dict)  # by slot, of what no closed item covers
    types: set[str] = field(default_factory=set)  # of the same
    ledgers: list[tuple[int, Ledger]] = field(default_factory=list)  # with the epoch of each


def _is_over(day: str, now_ms: int) -> bool:
    return now_ms >= day_start_ms(day) + DAY_MS
