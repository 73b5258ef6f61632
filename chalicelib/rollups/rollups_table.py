"""The rollups table: what is live of each hour, and which event types exist.

pk project#live#hour  sk d#<slot>#<record>                        a delta, or in its place the tombstone and tidemark
pk project#merged     sk <hour>#<epoch>#<slot>#<minute>#<record>  the merged item of some deltas of a slot
                      sk <hour>#<epoch>#<slot>#~                  the base: older merged items of the slot together
pk project#hours      sk <hour>                                   how far the hour is: storage/hours_table
pk project#types      sk <event type>                             named in every hour, or in those from `since` on

The index `open` holds the deltas that compaction has not absorbed, by project. It lags behind the table, so callers
that need the very last delta read the table (`read_hour`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chalicelib.base import waits
from chalicelib.base.dynamo import NEW, THERE, Action, Item, Table, delete, key, place_of, put
from chalicelib.rollups.codec import decode, encode
from chalicelib.rollups.deltas import Delta, HourView, Merged, latest
from chalicelib.rollups.facets import Excerpt
from chalicelib.rollups.hours_table import OPEN_INDEX, change_of
from chalicelib.rollups.known_types import KnownTypes, Places
from chalicelib.rollups.signatures import Signature

BASE = "~"  # sorts after every minute, so a reader meets the base last
REREAD_SECONDS = 60  # of the index, when a type is not in it that another container may have put there
MAX_MERGE = 97  # a transaction takes 100 items and 4 MB: the deltas, the merged item and the hour's own


@dataclass(frozen=True, slots=True)
class RollupsTable:
    """Each write is idempotent by its key; `known_types` spares repeated index calls within one container."""

    client: Any
    name: str
    clock: Callable[[], float] = time.time
    known_types: dict[str, KnownTypes] = field(default_factory=dict)

    def put_delta(self, delta: Delta) -> int | None:
        """Write the delta in place of an earlier attempt's, or return up to which record it is there already.

        That is the tidemark of a tombstone, or the last record of a later attempt, which this one must not undo.
        """
        item = {
            **_delta_key(delta.project, delta.hour, delta.id),
            "open": delta.project,
            "hour": delta.hour,
            "attempt": delta.attempt,
            "last": _sequence(delta.last),
            "signature": str(delta.signature),
            "written_at": delta.written_at,
            "body": delta.body,
        }
        is_put, there = self._table.write_showing(put(item, _EARLIER, {"attempt": delta.attempt}))
        return None if is_put else int(there.get("tidemark") or there["last"])

    def note_types(
        self,
        project: str,
        event_types: Iterable[str],
        contracted: Container[str],
        *,
        hour: str = "",
        closing: bool = False,
    ) -> dict[str, str]:
        """Put new types that have a place into the index; return under which name each type is counted in the hour.

        That is its own, or OTHER where it has no place. `event_types` come the most frequent first; those of contracts
        always have a place. Of the others, live ones get places until half are taken, and a `closing` hour's types
        some of the rest: so a type that comes after thousands of others is OTHER until an hour in which it is frequent
        is closed, and has its name from then on.
        """
        asked = list(event_types)
        known = self.known(project)
        new = [name for name in asked if name not in known.since]
        if new and known.read_at + REREAD_SECONDS <= self.clock():
            known = self.known(project, again=True)
        places = Places.left(known.since, contracted, closing=closing)
        for event_type in new:
            if event_type not in known.since and places.are_for(event_type):
                since = places.take(event_type, hour)
                if self._put_type(project, event_type, since):
                    known.since[event_type] = since
                else:
                    known = self.known(project, again=True)  # somebody else has named it in between
        return known.names(asked, hour)

    def _put_type(self, project: str, event_type: str, since: str) -> bool:
        """Put the type into the index; False where it is there."""
        item = key(f"{project}#types", event_type)
        return self._table.write(put(item | ({"since": since} if since else {}), NEW))

    def known(self, project: str, *, again: bool = False) -> KnownTypes:
        """Return the types that have a name, as this container knows them, or as they are now."""
        known = self.known_types.get(project)
        if known is None or again:
            since = {item["sk"]: item.get("since", "") for item in self._table.query(f"{project}#types")}
            known = self.known_types[project] = KnownTypes(self.clock(), since)
        return known

    def event_types(self, project: str) -> list[str]:
        """Return every event type the project ever sent."""
        return [item["sk"] for item in self._table.query(f"{project}#types")]

    def read_deltas(
        self, project: str, first: str, last: str, exact: Collection[str] = (), excerpt: Excerpt | None = None
    ) -> dict[str, list[Delta]]:
        """Return the open deltas of the hours from `first` to `last`, both included; with `excerpt`, no more of them.

        As of some moments ago; the hours of `exact` up to the last delta, at the price of their tombstones.
        """
        deltas: dict[str, list[Delta]] = defaultdict(list)
        wanted = (d for d in self.open_deltas(project, excerpt) if first <= d.hour <= last and d.hour not in exact)
        for delta in latest(wanted):
            deltas[delta.hour].append(delta)
        for hour in exact:
            deltas[hour] = self.deltas_of(project, hour, excerpt)
        return deltas

    def views(
        self,
        project: str,
        first: str,
        last: str,
        deltas: Mapping[str, Sequence[Delta]],
        excerpt: Excerpt | None = None,
    ) -> dict[str, HourView]:
        """The hours that have live items; `deltas` were read before, and closed items in between, where there are any.

        In this order, because what moves on meanwhile is named, or covered, by what took it in.
        """
        merged: dict[str, list[Merged]] = defaultdict(list)
        for item in self.read_merged(project, first, last, excerpt):
            merged[item.hour].append(item)
        hours = sorted({*deltas, *merged})
        return {hour: HourView.of(hour, deltas.get(hour, ()), merged.get(hour, ())) for hour in hours}

    def read_live(self, project: str, first: str, last: str, excerpt: Excerpt | None = None) -> dict[str, HourView]:
        """The hours that have live items, for readers that take nothing from closed ones."""
        return self.views(project, first, last, self.read_deltas(project, first, last, excerpt=excerpt), excerpt)

    def read_hour(self, project: str, hour: str) -> HourView:
        """Return one hour up to the last delta."""
        return self.views(project, hour, hour, {hour: self.deltas_of(project, hour)})[hour]

    def deltas_of(self, project: str, hour: str, excerpt: Excerpt | None = None) -> list[Delta]:
        """Return the hour's open deltas, up to the last one."""
        items = self._table.query(f"{project}#live#{hour}")
        return [delta_of(item, excerpt) for item in items if "tidemark" not in item]

    def open_deltas(self, project: str, excerpt: Excerpt | None = None) -> Iterator[Delta]:
        """Yield the deltas of a project that no merged item holds, or is about to, by when they were written.

        A merged item names what it took in for a while only, and the index may lag for longer: so what it shows as old
        is looked up in the table.
        """
        named_since = int(self.clock()) - waits.TRUSTED_MS // 1000
        for page in self._table.index_pages(OPEN_INDEX, "#open = :project", {"project": project}):
            deltas = [delta_of(item, excerpt) for item in page]
            old = self._still_open([delta for delta in deltas if delta.written_at < named_since])
            yield from (delta for delta in deltas if delta.written_at >= named_since or delta.frame_id in old)

    def _still_open(self, deltas: Sequence[Delta]) -> set[str]:
        """Return the names, as dashboards have them, of those in whose place no tombstone stands."""
        names = {place_of(_delta_key(delta.project, delta.hour, delta.id)): delta.frame_id for delta in deltas}
        items = self._table.get_many((key(*place) for place in names), fields="pk, sk, attempt")
        return {names[place_of(item)] for item in items if "attempt" in item}

    def old_deltas(self, written_before: int) -> Iterator[Delta]:
        """Yield the open deltas of all projects that were written before the Unix second."""
        is_old = "attribute_exists(body) AND written_at < :before"
        yield from map(delta_of, self._table.scan(is_old, {"before": written_before}, OPEN_INDEX))

    def absorb(self, deltas: Sequence[Delta], merged: Merged) -> bool:
        """Put the merged item and the tombstones in one transaction, with one more change of the hour.

        False when a delta has changed since it was read, or the epoch before the item's is not the last frozen one:
        nothing is written, and the next run tries again.
        """
        first = deltas[0]
        now = self.clock()
        expires_at = int(now) + waits.TOMBSTONE_MS // 1000
        return self._table.write_together(
            put(_merged_item(first.project, merged), NEW),
            *(_tombstone_put(delta, expires_at) for delta in deltas),
            change_of(first.project, merged.hour, now, frozen=merged.epoch - 1),
        )

    def fold(self, project: str, items: Sequence[Merged], base: Merged) -> bool:
        """Put the base, whose version is one more than that which was read, and delete what it has folded in."""
        before = {"before": base.version - 1}
        item = _merged_item(project, base)
        action = put(item, "version = :before", before) if base.version > 1 else put(item, NEW)
        return self._table.write_together(action, *(delete(_merged_key(project, each), THERE) for each in items))

    def read_merged(self, project: str, first: str, last: str, excerpt: Excerpt | None = None) -> Iterator[Merged]:
        """Return the merged items of the hours from `first` to `last`, by hour, epoch and slot, each slot's base last.

        Of what is folded while this reads, both an item and the base may come: see HourView.of.
        """
        between = {"first": first, "last": f"{last}#{BASE}"}
        items = self._table.query(f"{project}#merged", "sk BETWEEN :first AND :last", between)
        return (_merged(item, excerpt) for item in items)

    def delete_merged(self, project: str, item: Merged) -> None:
        """Delete a merged item that closed ones cover."""
        self._table.write(delete(_merged_key(project, item)))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


_EARLIER = "attribute_not_exists(tidemark) AND (attribute_not_exists(pk) OR attempt <= :attempt)"


def _delta_key(project: str, hour: str, delta_id: str) -> Item:
    return key(f"{project}#live#{hour}", f"d#{delta_id}")


def _merged_key(project: str, merged: Merged) -> Item:
    return key(f"{project}#merged", merged.name)


def merged_name(hour: str, epoch: int, slot: int, minute: str, delta_id: str) -> str:
    """Return the name of a merged item: its sort key."""
    return f"{hour}#{epoch:06d}#{slot:06d}#{minute}#{delta_id}"


def base_name(hour: str, epoch: int, slot: int) -> str:
    """Return the name of a slot's base."""
    return f"{hour}#{epoch:06d}#{slot:06d}#{BASE}"


def _merged_item(project: str, merged: Merged) -> Item:
    item = {
        **_merged_key(project, merged),
        "minute": merged.minute,
        "merged_at": merged.merged_at,
        "version": merged.version,
        "signature": str(merged.signature),
        "body": encode(merged.rollups),
    }
    if merged.absorbed:
        item["absorbed"] = {str(at): names for at, names in _by_time(merged.absorbed).items()}
    if merged.folded:
        item["folded"] = merged.folded
    return item


def _merged(item: Item, excerpt: Excerpt | None = None) -> Merged:
    name = item["sk"]
    hour, epoch, slot, _ = name.split("#", 3)
    return Merged(
        name=name,
        hour=hour,
        epoch=int(epoch),
        slot=int(slot),
        minute=item["minute"],
        merged_at=item["merged_at"],
        signature=Signature.from_text(item["signature"]),
        rollups=decode(item["body"], excerpt),
        absorbed={name: int(at) for at, names in item.get("absorbed", {}).items() for name in sorted(names)},
        folded=item.get("folded", {}),
        version=item["version"],
    )


def _by_time(absorbed: Mapping[str, int]) -> dict[int, set[str]]:
    names: dict[int, set[str]] = defaultdict(set)
    for name, at in absorbed.items():
        names[at].add(name)
    return names


def _tombstone_put(delta: Delta, expires_at: int) -> Action:
    """In the delta's place, on condition that it is still the one that was read."""
    last = _sequence(delta.last)
    tombstone = {**_delta_key(delta.project, delta.hour, delta.id), "tidemark": last, "expires_at": expires_at}
    return put(tombstone, "attempt = :attempt AND #last = :last", {"attempt": delta.attempt, "last": last})


def _sequence(number: int) -> str:
    return f"{number:040d}"  # up to 40 digits, and a DynamoDB number keeps 38


def closing_of(item: Item) -> tuple[str, str, str] | None:
    """Project, hour and mark of the item of a closed hour; each closing gives another mark."""
    project, _, kind = item["pk"].rpartition("#")
    return (project, item["sk"], str(item["epoch"])) if kind == "hours" and "epoch" in item else None


def delta_of(item: Item, excerpt: Excerpt | None = None) -> Delta:
    """Return the delta that an item of the table holds."""
    slot, _, first = item["sk"].removeprefix("d#").partition("#")
    return Delta(
        project=item["open"],
        hour=item["hour"],
        slot=int(slot),
        first=first,
        attempt=item["attempt"],
        last=int(item["last"]),
        signature=Signature.from_text(item["signature"]),
        written_at=item["written_at"],
        body=item["body"],
        excerpt=excerpt,
    )
