"""Closed hours and days in the rollups table, by facet: domain/facets.

pk <project>#<event type>#<year>   sk <facet>#h#<hour>   one hour
                                   sk <facet>#d#<day>    one UTC day; of the facet `n`, its hours one by one
pk <project>#(ledger)#<year>       sk (ledger)#h#<hour>  the ledger of an hour
pk <project>#days                  sk <day>              of a day with an hour closed that its items do not have yet
pk <project>#reconciled            sk upto               the last hour that was compared with the lake

Each item says what it covers of which hours: domain/closing. A year of days is one query of a page or two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chalicelib.base.dynamo import NEW, Item, Table, delete, key, place_of, put
from chalicelib.rollups.closing import NOTHING_COVERED, Cover
from chalicelib.rollups.codec import decode, encode
from chalicelib.rollups.facets import COUNTS, Excerpt
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.rollups import Rollup, Rollups

HOUR, DAY = "h", "d"
WHOLE = ""  # under this name lies the only rollup of an item that is not kept hour by hour
LEDGER = "(ledger)"

Name = tuple[str, str, str, str]  # of an item within a project: event type, facet, grain, hour or day


@dataclass(frozen=True, slots=True)
class Closed:
    """One closed item: `start` is the hour or day, `covers` what of the live items of each of its hours is in it."""

    start: str
    covers: Mapping[str, Cover]
    rollups: Rollups
    version: int = field(default=0, compare=False)  # grows with each write of the item


class Conflict(Exception):
    """Another writer was there in between."""


@dataclass(frozen=True, slots=True)
class ClosedTable:
    """Items are replaced as a whole; who changes one names the version that was read."""

    client: Any
    name: str  # of the rollups table

    def read(
        self,
        project: str,
        event_type: str,
        facet: str,
        grain: str,
        first: str,
        last: str,
        excerpt: Excerpt | None = None,
    ) -> Iterator[Closed]:
        """The items of the grain from `first` to `last`, both included, in order; with `excerpt`, no more of them."""
        for year in range(int(first[:4]), int(last[:4]) + 1):
            between = {"first": f"{facet}#{grain}#{first}", "last": f"{facet}#{grain}#{last}"}
            items = self._table.query(f"{project}#{event_type}#{year}", "sk BETWEEN :first AND :last", between)
            yield from (_closed(item, excerpt) for item in items)

    def get(self, project: str, event_type: str, facet: str, grain: str, start: str) -> Closed | None:
        """Return one item."""
        item = self._table.get(_key(project, event_type, facet, grain, start))
        return _closed(item) if item else None

    def get_many(self, project: str, names: Iterable[Name]) -> Iterator[tuple[Name, Closed]]:
        """The items there are of many names, in no order; far fewer calls than one by one."""
        wanted = {place_of(_key(project, *name)): name for name in names}
        for item in self._table.get_many(key(*place) for place in wanted):
            yield wanted[place_of(item)], _closed(item)

    def get_days(self, project: str, event_types: Iterable[str], days: Iterable[str]) -> Iterator[tuple[str, Closed]]:
        """(event type, its counts) of the days there are items of."""
        starts = list(days)
        names = [(event_type, COUNTS, DAY, day) for event_type in event_types for day in starts]
        return ((name[0], closed) for name, closed in self.get_many(project, names))

    def put(self, project: str, event_type: str, facet: str, grain: str, closed: Closed) -> None:
        """Write the item in place of the version before; raises Conflict when that is no longer the latest."""
        item = closed_item(project, event_type, facet, grain, closed)
        action = put(item, "version = :before", {"before": closed.version}) if closed.version else put(item, NEW)
        if not self._table.write(action):
            raise Conflict(f"{closed.start} of {event_type} was changed by another run")

    def change(
        self,
        project: str,
        event_type: str,
        facet: str,
        grain: str,
        start: str,
        change: Callable[[Closed | None], Closed | None],
    ) -> None:
        """Read, change, write; again when another run wrote in between. None leaves the item as it is."""
        for tries_left in self._table.retries.tries():
            changed = change(self.get(project, event_type, facet, grain, start))
            try:
                if changed:
                    self.put(project, event_type, facet, grain, changed)
                return
            except Conflict:
                if not tries_left:
                    raise

    def note_day(self, project: str, day: str, token: str) -> None:
        """Note, before an hour of the day is written, that the day's items will lack it; `token` is new each time."""
        self._table.write(put({**day_key(project, day), "token": token}))

    def noted_days(self, project: str) -> dict[str, str]:
        """Return the days whose items lack hours, in order, with the last token of each."""
        return {item["sk"]: item["token"] for item in self._table.query(f"{project}#days")}

    def forget_day(self, project: str, day: str, token: str) -> bool:
        """The day's items have every hour that was closed when the token was read; False where a newer note stays."""
        return self._table.write(delete(day_key(project, day), "#token = :token", {"token": token}))

    def reconciled_upto(self, project: str) -> str | None:
        """The last hour that was compared with the lake; None before the first."""
        item = self._table.get(_mark_key(project))
        return item["hour"] if item else None

    def mark_reconciled(self, project: str, hour: str) -> None:
        """The hour, and all before it, were compared; a run that is behind another one changes nothing."""
        mark = {**_mark_key(project), "hour": hour}
        self._table.write(put(mark, f"{NEW} OR #hour < :hour", {"hour": hour}))

    def ledger(self, project: str, hour: str) -> tuple[Ledger, Cover]:
        """Return the ledger of a closed hour, and what it covers of it."""
        found = self.get(project, LEDGER, LEDGER, HOUR, hour)
        return (found.rollups.ledger, found.covers[hour]) if found else (Ledger(), NOTHING_COVERED)

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def closed_item(project: str, event_type: str, facet: str, grain: str, closed: Closed) -> Item:
    """Return the item, as the version that follows the one that was read."""
    return {
        **_key(project, event_type, facet, grain, closed.start),
        "covers": {hour: str(cover) for hour, cover in closed.covers.items()},
        "version": closed.version + 1,
        "body": encode(closed.rollups),
    }


def one(start: str, cover: Cover, content: Rollup, version: int) -> Closed:
    """Return an hour's item."""
    return Closed(start, {start: cover}, Rollups({WHOLE: content}), version)


def _key(project: str, event_type: str, facet: str, grain: str, start: str) -> Item:
    return key(f"{project}#{event_type}#{start[:4]}", f"{facet}#{grain}#{start}")


def day_key(project: str, day: str) -> Item:
    """Return the note of a day that lacks hours."""
    return key(f"{project}#days", day)


def _mark_key(project: str) -> Item:
    return key(f"{project}#reconciled", "upto")


def _closed(item: Item, excerpt: Excerpt | None = None) -> Closed:
    return Closed(
        start=item["sk"].rpartition("#")[2],
        covers={hour: Cover.from_text(cover) for hour, cover in item["covers"].items()},
        rollups=decode(item["body"], excerpt),
        version=item["version"],
    )
