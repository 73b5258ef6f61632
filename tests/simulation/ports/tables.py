"""A DynamoDB table in memory: items in order of their keys, sparse indexes that lag, and what its stream gets."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from tests.simulation.ports.items import Item, comparable, invalid, item_size
from tests.simulation.ports.quirks import ORDINARY, Quirks
from tests.simulation.ports.table_stream import TableStream

Key = tuple[str, str]
KEY_BYTES = {"pk": 2048, "sk": 1024}


@dataclass
class Index:
    """Items that have both of the index's keys, `after` what was written so long ago."""

    hash_name: str
    range_name: str
    whole: bool  # else only the keys are in it
    entries: dict[Key, tuple[str, Any, Item]] = field(default_factory=dict)
    order: dict[str, list[tuple[Any, Key]]] = field(default_factory=dict)
    late: list[tuple[float, Key, Item | None]] = field(default_factory=list)
    due: dict[Key, float] = field(default_factory=dict)  # when the last change of an item shows

    def change(self, key: Key, item: Item | None, shows_at: float) -> None:
        """The item was written, or deleted; changes of one item show in their order."""
        if key not in self.due and key not in self.entries and (item is None or not self._is_in(item)):
            return
        shows_at = max(shows_at, self.due.get(key, shows_at))
        self.due[key] = shows_at
        self.late.append((shows_at, key, item))

    def catch_up(self, now: float) -> None:
        """Show what is due by now."""
        if not self.late:
            return
        still = []
        for change in self.late:
            if change[0] > now:
                still.append(change)
            else:
                self._show(change[1], change[2])
                if self.due.get(change[1]) == change[0]:
                    del self.due[change[1]]
        self.late = still

    def _is_in(self, item: Item) -> bool:
        return self.hash_name in item and self.range_name in item

    def _show(self, key: Key, item: Item | None) -> None:
        if before := self.entries.pop(key, None):
            ordered = self.order[before[0]]
            del ordered[bisect_left(ordered, (before[1], key))]
        if item is not None and self._is_in(item):
            kept = item if self.whole else {n: v for n, v in item.items() if n in self._names}
            where, at = str(comparable(item[self.hash_name])[1]), comparable(item[self.range_name])[1]  # type: ignore[index]
            self.entries[key] = where, at, kept
            insort(self.order.setdefault(where, []), (at, key))

    @property
    def _names(self) -> set[str]:
        return {"pk", "sk", self.hash_name, self.range_name}


@dataclass
class Partition:
    """The items of a hash key, by range key."""

    items: dict[str, Item] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)


@dataclass
class Table:
    """Keys are the texts `pk` and `sk`; binary order of UTF-8 is Python's order of texts."""

    name: str
    indexes: dict[str, Index] = field(default_factory=dict)
    stream: TableStream | None = None
    quirks: Quirks = ORDINARY
    partitions: dict[str, Partition] = field(default_factory=dict)
    expiring: dict[Key, int] = field(default_factory=dict)  # when an item may be deleted, in Unix seconds

    def get(self, key: Key) -> Item | None:
        """The item, which the caller must not change."""
        partition = self.partitions.get(key[0])
        return partition.items.get(key[1]) if partition else None

    def write(self, key: Key, item: Item | None, now: float, *, by_ttl: bool = False) -> None:
        """Put the item in place of what is there, or delete it; writing the same again is no change."""
        partition = self.partitions.get(key[0])
        before = partition.items.get(key[1]) if partition else None
        if before == item:
            return
        if partition is None:
            partition = self.partitions[key[0]] = Partition()
        if item is None:
            del partition.items[key[1]]
            del partition.order[bisect_left(partition.order, key[1])]
            self.expiring.pop(key, None)
        else:
            if before is None:
                insort(partition.order, key[1])
            partition.items[key[1]] = item
            if "expires_at" in item:
                self.expiring[key] = int(item["expires_at"]["N"])
            else:
                self.expiring.pop(key, None)
        for index in self.indexes.values():
            index.change(key, item, now + self.quirks.lag_seconds())
        if self.stream is not None:
            self.stream.append(key, before, item, now, by_ttl=by_ttl)

    def expire(self, now: float) -> int:
        """Delete what has expired, as DynamoDB does some time later; returns how many items."""
        over = [key for key, at in self.expiring.items() if at <= now]
        for key in over:
            self.write(key, None, now, by_ttl=True)
        return len(over)

    def keys_of(self, pk: str, operator: str, bounds: list[str]) -> list[str]:
        """The sort keys of a partition that a key condition names, in order."""
        partition = self.partitions.get(pk)
        return slice_of(partition.order, operator, bounds) if partition else []

    def every(self) -> Iterator[tuple[Key, Item]]:
        """Every item, partition by partition, in no order that means anything."""
        for pk in sorted(self.partitions, key=lambda pk: place_of((pk, ""))):
            partition = self.partitions[pk]
            for sk in partition.order:
                yield (pk, sk), partition.items[sk]


def place_of(key: Key) -> tuple[int, str, str]:
    """Where an item is in a scan of a table."""
    return crc32(key[0].encode()), *key


def slice_of(order: list[Any], operator: str, bounds: list[Any]) -> list[Any]:
    """Those of an ordered list that a condition takes."""
    match operator:
        case "":
            return order[:]
        case "=":
            return order[bisect_left(order, bounds[0]) : bisect_right(order, bounds[0])]
        case "<":
            return order[: bisect_left(order, bounds[0])]
        case "<=":
            return order[: bisect_right(order, bounds[0])]
        case ">":
            return order[bisect_right(order, bounds[0]) :]
        case ">=":
            return order[bisect_left(order, bounds[0]) :]
        case "between":
            if bounds[0] > bounds[1]:
                raise invalid(
                    "Invalid KeyConditionExpression: The BETWEEN operator requires upper bound >= lower bound"
                )
            return order[bisect_left(order, bounds[0]) : bisect_right(order, bounds[1])]
    first = bisect_left(order, bounds[0])
    end = first
    while end < len(order) and order[end].startswith(bounds[0]):
        end += 1
    return order[first:end]


def key_of(item: Mapping[str, Any], *, alone: bool = False) -> Key:
    """An item's key; raises a ValidationException for one that is missing, empty, too long or no text."""
    if alone and len(item) != 2:
        raise invalid("The provided key element does not match the schema")
    try:
        pk, sk = item["pk"]["S"], item["sk"]["S"]
        if 0 < len(pk) < 500 and 0 < len(sk) < 250:  # texts of four bytes each at most
            return pk, sk
    except KeyError:
        pass
    found = []
    for name, most in KEY_BYTES.items():
        text = item.get(name, {}).get("S")
        if text is None:
            raise invalid(f"One or more parameter values were invalid: Missing the key {name} in the item")
        if not text:
            raise invalid("One or more parameter values are not valid. The AttributeValue for a key attribute is empty")
        if len(text) > most // 4 and len(text.encode()) > most:
            raise invalid(f"One or more parameter values were invalid: Size of {name} exceeds {most} bytes")
        found.append(text)
    return found[0], found[1]


def check_indexed(table: Table, item: Item) -> None:
    """Raise a ValidationException where an attribute has not the type that an index's key must have."""
    for index in table.indexes.values():
        for name, kind in ((index.hash_name, "S"), (index.range_name, "N")):
            if name in item and kind not in item[name]:
                raise invalid(f"One or more parameter values were invalid: Type mismatch for Index Key {name}")
            if item.get(name) == {"S": ""}:
                raise invalid(f"One or more parameter values are not valid: {name} of an index is an empty text")


def check_size(item: Item, message: str = "Item size has exceeded the maximum allowed size") -> int:
    """The item's bytes; raises a ValidationException above 400 KB."""
    size = item_size(item)
    if size > 400 * 1024:
        raise invalid(message)
    return size
