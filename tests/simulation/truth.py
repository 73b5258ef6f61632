"""What is known from outside of the pipeline: what was sent, acknowledged, stored, delivered; what is to be shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chalicelib.events.chunks import unpack_events
from tests.simulation.accounts import Accounts
from tests.simulation.ports.table_stream import StreamRecord
from tests.simulation.workload import Event, hour_name

Id = tuple[str, str]  # project, event id


class Row(NamedTuple):
    """An event as the hot store has it."""

    project: str
    id: str
    type: str
    hour: str
    user: str | None


@dataclass
class Truth:
    """Times are the history's; a record is a place in the stream of the events table."""

    events: dict[Id, Event] = field(default_factory=dict)
    acknowledged: dict[Id, float] = field(default_factory=dict)
    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # of imports: by project and name
    imported: set[Id] = field(default_factory=set)  # in files that are said to be done
    erased: set[tuple[str, str]] = field(default_factory=set)  # project and user, once they asked for it
    copies: Counter[Row] = field(default_factory=Counter)  # how often an event came out of the hot store
    delivered: dict[str, dict[Row, float]] = field(default_factory=lambda: defaultdict(dict))  # by function: since when
    accounts: Accounts = field(default_factory=Accounts)
    doubtful: set[Id] = field(default_factory=set)  # of records that guarantees except for a day
    trimmed: set[Id] = field(default_factory=set)  # of records that a consumer never saw
    _rows: dict[int, list[Row]] = field(default_factory=dict)  # of a record, by its sequence number

    def know(self, events: Iterable[Event]) -> None:
        """These may be sent."""
        self.events |= {(event.project, event.id): event for event in events}

    def acknowledge(self, project: str, ids: Iterable[str], now: float) -> None:
        """The client was told that these are safe."""
        for each in ids:
            self.acknowledged.setdefault((project, each), now)

    def rows_of(self, record: StreamRecord) -> list[Row]:
        """The events of a new chunk; none of what is no chunk."""
        if record.sequence not in self._rows:
            self._rows[record.sequence] = _rows(record)
        return self._rows[record.sequence]

    def inserted(self, record: StreamRecord) -> None:
        """Something was written into the hot store."""
        self.copies.update(self.rows_of(record))
        self.accounts.wrote(record)

    def deliver(self, function: str, record: StreamRecord, now: float) -> None:
        """A function is done with a record."""
        for row in self.rows_of(record):
            self.delivered[function].setdefault(row, now)

    def doubt(self, record: StreamRecord) -> None:
        """The record's events may be shown once too often, or not, until its stream has forgotten it."""
        self.doubtful |= {(row.project, row.id) for row in self.rows_of(record)}

    def is_gone(self, row: Row) -> bool:
        """Whether its user asked to be forgotten."""
        return row.user is not None and (row.project, row.user) in self.erased

    def stored(self) -> dict[Id, list[Row]]:
        """What has to be shown in the end, each event once; where its copies differ, as one of them says."""
        found: dict[Id, list[Row]] = {}
        for row in self.copies:
            if not self.is_gone(row):
                found.setdefault((row.project, row.id), []).append(row)
        for project, event_id in self.imported:
            event = self.events[project, event_id]
            row = Row(project, event_id, event.type, hour_name(event.at), event.user)
            if not self.is_gone(row):
                found.setdefault((project, event_id), []).append(row)
        return found

    def least(self, before: float) -> Counter[tuple[str, str, str]]:
        """Events by project, type and hour that `aggregate` was done with by then: a reader has to see them."""
        seen = {(row.project, row.id): row for row, at in self.delivered["aggregate"].items() if at <= before}
        return Counter((r.project, r.type, r.hour) for r in seen.values() if not self.is_gone(r))

    def most(self, *, doubts: bool = True) -> Counter[tuple[str, str, str]]:
        """Copies of events by project, type and hour that a reader may see; of what is doubtful twice as many."""
        found: Counter[tuple[str, str, str]] = Counter()
        for row, copies in self.copies.items():
            found[row.project, row.type, row.hour] += copies * (1 + (doubts and (row.project, row.id) in self.doubtful))
        for project, files in self.files.items():
            for event_id in (each for file in files.values() for each in file):
                event = self.events[project, event_id]
                found[project, event.type, hour_name(event.at)] += 1
        return found


def _rows(record: StreamRecord) -> list[Row]:
    image = record.image
    if record.event != "INSERT" or image is None or "body" not in image or "project" not in image:
        return []
    try:
        events: list[dict[str, Any]] = unpack_events(image["body"]["B"])[0]
    except ValueError:
        return []
    project = image["project"]["S"]
    return [
        Row(
            project,
            event["event_id"],
            event["event_type"],
            hour_name(event["occurred_at"] / 1000),
            event.get("user_id") or event.get("anonymous_id"),
        )
        for event in events
        if not event.get("enrichment", {}).get("bot")
    ]
