"""Days of which nothing is known yet, taken and closed as a whole: some transactions in place of thousands of writes.

A day that an import brings, and of which there is neither an hour's item nor a live one, needs none of the care of an
hour that was live: nobody reads or writes what is put. So its items go in by transactions, each on condition that
nobody came in between; where somebody did, nothing of the transaction is written, and the day is finished hour by hour
like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.base.dynamo import NEW, Item, Table, put, update
from chalicelib.base.time_windows import hours_of
from chalicelib.rollups.closed_table import Closed, closed_item, day_key
from chalicelib.rollups.closing import Cover
from chalicelib.rollups.hours_table import hour_key, open_partition

MAX_ITEMS = 100  # TransactWriteItems limit
MAX_BYTES = 3 * 1024 * 1024  # its limit is 4 MB, names and keys included
NEW_COVER = Cover(epoch=1)  # of closed items: no live ones, whose slots an import has none of


@dataclass(frozen=True, slots=True)
class NewDays:
    """Each call is right when repeated: what was done by the same run before answers False, and is finished by hour."""

    client: Any
    table: str  # of the rollups

    def is_new(self, project: str, day: str) -> bool:
        """Return whether no item says anything of the day's hours."""
        first, last = hours_of(day)
        ranges = [(f"{project}#hours", first, last), (f"{project}#merged", first, f"{last}~")]
        return not any(map(self._any, ranges))

    def take(self, project: str, day: str, hours: Sequence[str], run: str, now_ms: int) -> bool:
        """Begin: the hours are dirty, frozen in their first epoch, and their day lacks them; False when one is not new.

        Frozen first, so that what comes in meanwhile is counted beside what will be put.
        """
        puts = []
        for hour in hours:
            opened = {"open": open_partition(project, hour), "written_at": now_ms // 1000}
            taken = {"changes": 1, "frozen": NEW_COVER.epoch}
            puts.append(put({**hour_key(project, hour), **opened, **taken}, NEW))
        note = put({**day_key(project, day), "token": run})
        return self._table.write_together(*puts, note)

    def put(self, project: str, items: Sequence[tuple[str, str, str, Closed]]) -> bool:
        """Put closed items, each with its event type, facet and grain; False when one was there."""
        whole = True
        for share in _shares([closed_item(project, *item) for item in items]):
            whole = self._table.write_together(*(put(item, NEW) for item in share)) and whole
        return whole

    def finish(self, project: str, versions: Mapping[str, str], now_ms: int) -> bool:
        """The hours are closed and clean, each with the version of its file; `forget_day` is to follow.

        False when something else came into one of them, or another run began with it: all stay dirty then.
        """
        sets = "SET version = :version, bare = :true, epoch = :epoch, done = :one, "
        sets += "consolidated_at = :now, closed_at = :now"
        condition = "frozen = :epoch AND changes = :one AND attribute_not_exists(version)"
        known = {"true": True, "now": now_ms, "epoch": NEW_COVER.epoch, "one": 1}
        return self._table.write_together(
            *(
                update(hour_key(project, hour), sets, {**known, "version": version}, condition)
                for hour, version in versions.items()
            )
        )

    def _any(self, where: tuple[str, str, str]) -> bool:
        pk, first, last = where
        items = self._table.query(pk, "sk BETWEEN :first AND :last", {"first": first, "last": last}, page_items=1)
        return any(True for _ in items)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.table)


def _shares(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items in transactions that are small enough."""
    share: list[Item] = []
    size_bytes = 0
    for item in items:
        item_bytes = len(item["body"]) + 1024
        if share and (len(share) == MAX_ITEMS or size_bytes + item_bytes > MAX_BYTES):
            yield share
            share, size_bytes = [], 0
        share.append(item)
        size_bytes += item_bytes
    if share:
        yield share
