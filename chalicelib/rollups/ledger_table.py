"""What the edge received, beside the rollups: `project#ledger` / hour#container, a container's totals of that hour."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from chalicelib.base import waits
from chalicelib.base.dynamo import Item, Table, key, put, update
from chalicelib.rollups.ledger import Receipt

INDEX = "receipts"  # sparse: of the hours that do not balance yet, by when they were put
PARTITIONS = [f"open{n}" for n in range(16)]  # of the index: DynamoDB takes 1,000 writes a second of each
ALL = "all"  # the one partition that older versions put theirs in


@dataclass(frozen=True, slots=True)
class OpenHour:
    """An hour of receipt in the index: when the last of its receipts was put, in Unix seconds, and whose."""

    project: str
    hour: str
    received: int
    containers: frozenset[str]


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """A put replaces the container's totals of before, so it may be repeated and need not be made each time.

    One that comes late, because the SDK had given it up, changes nothing.
    """

    client: Any
    name: str  # of the rollups table

    def put(self, project: str, hour: str, receipt: Receipt, now: int, name: str = "") -> None:
        """`now` is Unix seconds, `name` what the receipt is put under where its container's own stays as it is."""
        item = {
            **_key(project, hour, name or receipt.container),
            "receipt": str(receipt),
            "counted": receipt.counted(),
            **({} if name else {"receipts": _partition(project, hour, receipt.container)}),
            "written_at": now,
            "expires_at": now + waits.RECEIPTS_MS // 1000,
        }
        is_later = "attribute_not_exists(counted) OR counted <= :counted"
        self._table.write(put(item, is_later, {"counted": item["counted"]}))

    def receipts(self, project: str, first: str, last: str) -> dict[str, list[Receipt]]:
        """Return the last receipt of each container, by the hours from `first` to `last`, both included."""
        between = {"first": first, "last": f"{last}#~"}
        found: dict[str, list[Receipt]] = {}
        for item in self._table.query(f"{project}#ledger", "sk BETWEEN :first AND :last", between):
            hour = item["sk"].partition("#")[0]
            found.setdefault(hour, []).append(Receipt.from_text(item["receipt"]))
        return found

    def open_hours(self, since: int) -> list[OpenHour]:
        """Return the hours in the index, however old; of what older versions put, those put since."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        for item in self._open(since):
            hour, _, container = item["sk"].partition("#")
            written = found.setdefault((item["pk"].removesuffix("#ledger"), hour), {})
            written[container] = item["written_at"]
        return [OpenHour(*key, max(written.values()), frozenset(written)) for key, written in sorted(found.items())]

    def take_out(self, hour: OpenHour, receipts: Iterable[Receipt]) -> None:
        """Take the receipts out of the index, unless they have become more since they were read."""
        for receipt in receipts:
            at = _key(hour.project, hour.hour, receipt.container)
            self._table.write(update(at, "REMOVE receipts", {"read": str(receipt)}, "receipt = :read"))

    def _open(self, since: int) -> Iterator[Item]:
        for partition in (*PARTITIONS, ALL):
            where = {"partition": partition, "since": since if partition == ALL else 0}
            for page in self._table.index_pages(INDEX, "receipts = :partition AND written_at >= :since", where):
                yield from page

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _key(project: str, hour: str, name: str) -> Item:
    return key(f"{project}#ledger", f"{hour}#{name}")


def _partition(project: str, hour: str, container: str) -> str:
    """Return the same for all totals that stand in one item."""
    return PARTITIONS[crc32(f"{project}#{hour}#{container}".encode()) % len(PARTITIONS)]
