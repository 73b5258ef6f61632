"""Every minute: deltas that are a minute old are merged, and older merged items folded, so that reading stays cheap.

Each step is one transaction. A crash anywhere leaves whole transactions; the next run does the rest.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from chalicelib.base import waits
from chalicelib.base.time_windows import MINUTE_MS, minute_of
from chalicelib.rollups.codec import decode
from chalicelib.rollups.deltas import Delta, Merged, latest
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.rollups import merge_all
from chalicelib.rollups.rollups_table import MAX_MERGE, RollupsTable, base_name, merged_name
from chalicelib.rollups.signatures import total

MIN_FOLD = 3  # fewer items are not worth rewriting the base, of 150 KB where 200 deltas come in a minute
MAX_FOLD = 90
MAX_HELD_BYTES = 64 * 1024 * 1024  # of deltas as they lie in the table, which are decoded one by one
WORKERS = 4  # hours at the same time, so that none waits for all others

log = logging.getLogger(__name__)

Minute = tuple[int, str]  # the slot of some deltas, and the minute that they were written in


@dataclass(frozen=True, slots=True)
class Compactor:
    """Merges the deltas of every project."""

    rollups: RollupsTable
    hours: HoursTable
    workers: int = WORKERS

    def compact(self, now: int) -> int:
        """Merge deltas that are old enough at `now` (Unix seconds); return how many were absorbed.

        Raises an ExceptionGroup, after all the others are done, when an hour could not be compacted.
        """
        absorbed = 0
        failures: list[Exception] = []

        def one(of: tuple[str, str, list[Delta]]) -> int | Exception:
            project, hour, deltas = of
            try:
                merged = self._merge_hour(project, hour, deltas, now)
                self._fold_hour(project, hour, now)
                return merged
            except Exception as error:  # noqa: BLE001 - one hour's trouble must not keep all others from compaction
                log.warning("hour not compacted", extra={"project": project, "hour": hour, "reason": repr(error)})
                return error

        with ThreadPoolExecutor(self.workers) as pool:
            each = pool.map if self.workers > 1 else map
            for held in _shares(self.rollups.old_deltas(now - waits.MERGE_MS // 1000)):
                for done in each(one, _by_hour(held)):
                    if isinstance(done, Exception):
                        failures.append(done)
                    else:
                        absorbed += done
        if absorbed:
            log.info("deltas absorbed", extra={"deltas": absorbed})
        if failures:
            raise ExceptionGroup(f"{len(failures)} hours were not compacted", failures)
        return absorbed

    def _merge_hour(self, project: str, hour: str, deltas: list[Delta], now: int) -> int:
        absorbed = 0
        for (slot, minute), together in _by_minute(deltas):
            for start in range(0, len(together), MAX_MERGE):
                absorbed += self._merge(project, hour, (slot, minute), together[start : start + MAX_MERGE], now)
        return absorbed

    def _merge(self, project: str, hour: str, of: Minute, deltas: list[Delta], now: int) -> int:
        slot, minute = of
        epoch = self.hours.get(project, hour).frozen + 1
        merged = Merged(
            name=merged_name(hour, epoch, slot, minute, deltas[0].first),
            hour=hour,
            epoch=epoch,
            slot=slot,
            minute=minute,
            merged_at=now,
            signature=total(delta.signature for delta in deltas),
            rollups=merge_all(decode(delta.body) for delta in deltas),
            absorbed=dict.fromkeys((d.id for d in deltas), now),
        )
        return len(deltas) if self.rollups.absorb(deltas, merged) else 0

    def _fold_hour(self, project: str, hour: str, now: int) -> None:
        """Fold the older merged items of the open epoch, slot by slot."""
        epoch = self.hours.get(project, hour).frozen + 1
        items = [item for item in self.rollups.read_merged(project, hour, hour) if item.epoch == epoch]
        for slot, of_slot in groupby(items, key=lambda item: item.slot):
            self._fold_slot(project, hour, base_name(hour, epoch, slot), list(of_slot), now)

    def _fold_slot(self, project: str, hour: str, name: str, items: Sequence[Merged], now: int) -> None:
        before = next((item for item in items if item.name == name), None)
        old = [item for item in items if item.name != name and item.merged_at < now - waits.FOLD_MS // 1000][:MAX_FOLD]
        if len(old) < MIN_FOLD:
            return
        parts = [before, *old] if before else old

        def lately(names: Iterable[tuple[str, int]]) -> dict[str, int]:
            return {name: at for name, at in names if at > now - waits.NAMED_MS // 1000}

        base = Merged(
            name=name,
            hour=hour,
            epoch=old[0].epoch,
            slot=old[0].slot,
            minute=old[-1].minute,
            merged_at=now,
            signature=total(part.signature for part in parts),
            rollups=merge_all(part.rollups for part in parts),
            absorbed=lately(each for part in parts for each in part.absorbed.items()),
            folded=lately(before.folded.items() if before else ()) | {item.name: now for item in old},
            version=before.version + 1 if before else 1,
        )
        self.rollups.fold(project, old, base)


def _shares(deltas: Iterable[Delta]) -> Iterator[list[Delta]]:
    """Yield the deltas in shares that memory can hold."""
    share: list[Delta] = []
    size_bytes = 0
    for delta in deltas:
        share.append(delta)
        size_bytes += len(delta.body)
        if size_bytes > MAX_HELD_BYTES:
            yield share
            share, size_bytes = [], 0
    if share:
        yield share


def _by_hour(deltas: Iterable[Delta]) -> Iterator[tuple[str, str, list[Delta]]]:
    ordered = sorted(latest(deltas), key=lambda d: (d.project, d.hour, d.slot, d.written_at, d.id))
    for (project, hour), of_hour in groupby(ordered, key=lambda d: (d.project, d.hour)):
        yield project, hour, list(of_hour)


def _by_minute(deltas: Iterable[Delta]) -> Iterator[tuple[Minute, list[Delta]]]:
    """Deltas by slot and the minute they were written in, so that `the last five minutes` can be told after merging."""
    for (slot, minute), group in groupby(deltas, key=lambda d: (d.slot, d.written_at // 60)):
        yield (slot, minute_of(minute * MINUTE_MS)), list(group)
