"""The item of an hour, in the rollups table: `<project>#hours` / `<hour>`. All fences of its life are conditions on it.

changes, done    how many tails were written and deltas merged; how many of them are closed: dirty while they differ
version          of the lake's files that hold what its manifest names, and consolidated_at: when it was committed
bare             whether the version has no manifest, as that of an import into an hour without anything
began_at         when a consolidation began last: whatever becomes of it, its files may lie beside those of the version
replaced         whether there were, or may be, files that are not the version's; they are deleted later
frozen           epochs up to this one take nothing more
epoch, upto      the last closing: which epochs, and which slots
settled          the hour's final slot: slots up to this one are never compared again
covered          {slot: signature} of what is closed, of the slots after the final one
open, written_at in the index `open`, while anything is left to do or to delete: spread over some partitions, by when
                 the oldest thing came that is not closed (Unix seconds)

Hours of a year are some two megabytes, so a project's are read as they are, not by an index that lags.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from chalicelib.base.dynamo import Action, Item, Table, key, update
from chalicelib.base.retries import Retries
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.signatures import Signature

OPEN_INDEX = "open"
OPEN_PARTITIONS = 8  # a partition of an index takes some 1,000 writes a second

Condition = tuple[str, Item]  # an expression, and its values


@dataclass(frozen=True, slots=True)
class HoursTable:
    """Each call is one request; those that rest on something read before have it as their condition."""

    client: Any
    table: str  # of the rollups
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def get(self, project: str, hour: str) -> Hour:
        """Return the hour; as nothing was ever done of it, where there is no item."""
        item = self._table.get(hour_key(project, hour))
        return Hour(project, hour) if item is None else _hour(item)

    def between(self, project: str, first: str, last: str) -> list[Hour]:
        """Return the hours from `first` to `last`, both included, of which there is an item, in order."""
        hours = {"first": first, "last": last}
        return [*map(_hour, self._table.query(_partition(project), "sk BETWEEN :first AND :last", hours))]

    def unsettled(self, project: str) -> list[Hour]:
        """Return the project's hours of which a query cannot take just any file, in order."""
        return [*map(_hour, self._table.query(_partition(project), only="attribute_exists(#open)"))]

    def waiting(self) -> list[Hour]:
        """Return the hours of all projects that something is left to do of, as of some moments ago; each once."""
        found: dict[tuple[str, str], Hour] = {}  # one that is noted anew meanwhile is on two pages
        for partition in range(OPEN_PARTITIONS):
            pages = self._table.index_pages(OPEN_INDEX, "#open = :partition", {"partition": f"#hours{partition}"})
            found |= {(each.project, each.hour): each for page in pages for each in map(_hour, page)}
        return list(found.values())

    def note(self, project: str, hour: str) -> None:
        """Something came, or is to be done again. Called once it is there, and by a repeat again.

        Not before: a closing in between would not find it, and yet take the note for done.
        """
        self._table.write(change_of(project, hour, self.clock()))

    def begin(self, hour: Hour, now_ms: int) -> None:
        """A consolidation begins: others rather do something else, and readers take files of the hour by name only.

        Before its first file: one that dies leaves files in an hour that nobody has to come to otherwise.
        """
        sets = "SET began_at = :now, replaced = :true, #open = :open, written_at = if_not_exists(written_at, :since)"
        values = {
            "now": now_ms,
            "true": True,
            "open": open_partition(hour.project, hour.hour),
            "since": now_ms // 1000,
        }
        self._change(hour, sets, values)

    def commit(self, before: Hour, version: str, now_ms: int) -> bool:
        """Make the version the hour's current one; False when it is no longer the one that was read."""
        sets = "SET version = :version, consolidated_at = :now REMOVE bare"
        return self._change(before, sets, {"version": version, "now": now_ms}, _same_version(before))

    def freeze(self, before: Hour) -> bool:
        """Let the next epoch take nothing more; False when another version, freezing or closing came meanwhile."""
        conditions = _same_version(before), _same("frozen", before.frozen), _same("epoch", before.epoch)
        return self._change(before, "SET frozen = :epoch", {"epoch": before.frozen + 1}, *conditions)

    def skip_to(self, before: Hour, epoch: int) -> bool:
        """Freeze all epochs up to this one, of an hour whose item was lost; False when another run was there."""
        return self._change(before, "SET frozen = :epoch", {"epoch": epoch}, _same("frozen", before.frozen))

    def mark(self, before: Hour, closed: Hour, now_ms: int) -> bool:
        """Note what is closed now, so that what it covers may go; False when another closing began since `before`.

        `before` is as the hour was when the epoch was frozen: one more is frozen now. What came since stays to be done.
        """
        values = {
            "epoch": closed.epoch,
            "upto": closed.upto,
            "covered": {str(slot): str(each) for slot, each in closed.covered.items()},
            "settled": closed.final_slot,
            "now": now_ms,
            "done": closed.done,
            "since": closed.since_ms // 1000,
        }
        sets = "SET epoch = :epoch, upto = :upto, covered = :covered, settled = :settled, done = :done"
        sets += ", closed_at = :now, written_at = :since"
        return self._change(before, sets, values, ("frozen = :epoch", {}))

    def settle(self, hour: Hour) -> bool:
        """Nothing is left to do of the hour; False when something came, or a consolidation began or ended, since."""
        conditions = _same_version(hour), _same("changes", hour.changes), _same("began_at", hour.began_ms)
        return self._change(hour, "REMOVE #open, written_at", {}, *conditions)

    def _change(self, hour: Hour, change: str, values: Item, *conditions: Condition) -> bool:
        """Change the hour's item; False where one of the conditions does not hold."""
        known = values | {name: value for _, each in conditions for name, value in each.items()}
        condition = " AND ".join(each for each, _ in conditions)
        return self._table.write(update(hour_key(hour.project, hour.hour), change, known, condition))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.table, Retries(sleep=self.sleep))


def hour_key(project: str, hour: str) -> Item:
    """Return the item of an hour."""
    return key(_partition(project), hour)


def change_of(project: str, hour: str, now: float, frozen: int | None = None) -> Action:
    """The update that notes one more change of the hour; on condition, where named, that so many epochs are frozen."""
    change = "SET #open = :open, written_at = if_not_exists(written_at, :now) ADD changes :one"
    values = {"open": open_partition(project, hour), "now": int(now), "one": 1}
    condition, more = _same("frozen", frozen) if frozen is not None else ("", {})
    return update(hour_key(project, hour), change, values | more, condition)


def open_partition(project: str, hour: str) -> str:
    """Return where the index has an hour that is not settled; no project's name begins so."""
    return f"#hours{crc32(f'{project}#{hour}'.encode()) % OPEN_PARTITIONS}"


def _partition(project: str) -> str:
    return f"{project}#hours"


def _same(name: str, number: int) -> Condition:
    """The condition that a number is what was read; 0 stands for none, too."""
    if not number:
        return f"attribute_not_exists({name})", {}
    return f"{name} = :was_{name}", {f"was_{name}": number}


def _same_version(hour: Hour) -> Condition:
    if hour.version is None:
        return "attribute_not_exists(version)", {}
    return "version = :was_version", {"was_version": hour.version}


def _hour(item: Item) -> Hour:
    return Hour(
        project=item["pk"].removesuffix("#hours"),
        hour=item["sk"],
        changes=item.get("changes", 0),
        done=item.get("done", 0),
        since_ms=item.get("written_at", 0) * 1000,
        began_ms=item.get("began_at", 0),
        version=item.get("version"),
        consolidated_ms=item.get("consolidated_at", 0),
        bare="bare" in item,
        replaced="replaced" in item,
        frozen=item.get("frozen", 0),
        epoch=item.get("epoch", 0),
        upto=item.get("upto", -1),
        closed_ms=item.get("closed_at", 0),
        covered={int(slot): Signature.from_text(each) for slot, each in item.get("covered", {}).items()},
        final_slot=item.get("settled", -1),
        unsettled="open" in item,
    )
