"""What clients send: requests at their times, planned before anything happens; events late, early, twice, at edges."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tests.simulation.options import Options

PROJECTS = ("acme", "acme2")  # one's name begins with the other's
HOUR_SECONDS = 3600.0
PATHS = ("/", "/pricing", "/checkout", "/blog")
COUNTRIES = ("DE", "FR", "US")
KINDS = (*("page_view",) * 6, "purchase", "purchase", "level_up", "Song Played", "level_up", "Song Played", "identify")
_SDK_KINDS = {"page_view": "page", "identify": "identify"}  # what is no `track` call
SDK_PATH = "/v1/batch"
SLOT_EDGE_SECONDS = 300.0  # after the hour
LATE_HOURS = 2
AHEAD = (45.0, 59.5, 61.0, 90.0, 3600.0, -90.0, -7200.0)  # of clients' clocks, in seconds
# … of those whose skew, what the network adds to it included, is now under a whole minute, now over it.
ASKEW = (60.02, 60.1, 120.05, 3600.02, -59.95, -59.98, -119.97)
GIVE_UP_AFTER = 6  # attempts
ASKEW_HISTORIES = 0.15  # of all: those of one client whose clock is askew
MANY = {"many values": 480, "many types": 60}  # events of the first request


@dataclass(frozen=True)
class Event:
    """One event of a client; the same one may be sent in several requests."""

    project: str
    id: str
    type: str
    user: str | None
    at: float  # by the client's clock
    properties: dict[str, Any]
    ahead: float = 0.0  # by how much that is ahead

    @property
    def is_large(self) -> bool:
        """Whether it has so many values, or so deep, that the door may refuse it."""
        return not {"deep", "wide", "hostile"}.isdisjoint(self.properties)

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        owner = {"user_id": self.user} if self.user else {}
        sent = {"event_id": self.id, "event_type": self.type, "timestamp": iso(self.at), "properties": self.properties}
        return {**sent, **owner}

    def to_sdk(self) -> dict[str, Any]:
        """As an SDK of Segment's kind sends it."""
        kind = _SDK_KINDS.get(self.type, "track")
        named = {"event": self.type} if kind == "track" else {}
        given = {"traits" if kind == "identify" else "properties": self.properties}
        return {"type": kind, "messageId": self.id, "userId": self.user, "timestamp": iso(self.at), **named, **given}

    def to_bus(self) -> dict[str, Any]:
        """As EventBridge delivers it."""
        told = {"id": self.id, "detail-type": self.type, "time": iso(self.at), "detail": self.properties}
        return {"version": "0", "source": "tidemark.shop", "account": "0", "region": "", "resources": [], **told}


@dataclass(frozen=True)
class Request:
    """Events that are sent together at a time; what is not acknowledged is sent again, perhaps in other company."""

    number: int
    at: float
    project: str
    events: tuple[Event, ...]
    patience: int = GIVE_UP_AFTER
    regroups: bool = False
    ahead: float = 0.0  # by how many seconds the client's clock is ahead
    tells_time: bool = True  # whether the client says when it sends
    path: str = "/events"

    def body(self, sent_at: float, events: tuple[Event, ...]) -> dict[str, Any]:
        """The document."""
        now = iso(sent_at + self.ahead)
        if self.path == SDK_PATH:
            return {"batch": [event.to_sdk() for event in events], **({"sentAt": now} if self.tells_time else {})}
        return {"events": [event.to_json() for event in events], **({"sent_at": now} if self.tells_time else {})}


@dataclass(frozen=True)
class BusEvent:
    """One that a program of the account puts on the bus."""

    at: float
    event: Event


@dataclass(frozen=True)
class Erasure:
    """A user is to be forgotten, from whom nothing new comes then."""

    at: float
    project: str
    user: str


@dataclass(frozen=True)
class ImportFile:
    """A file of history."""

    at: float
    project: str
    name: str
    events: tuple[Event, ...]

    def content(self) -> bytes:
        """As NDJSON."""
        return b"".join(json.dumps(event.to_json()).encode() + b"\n" for event in self.events)


@dataclass
class Workload:
    """Everything that is done from outside."""

    requests: list[Request] = field(default_factory=list)
    bus: list[BusEvent] = field(default_factory=list)
    erasures: list[Erasure] = field(default_factory=list)
    imports: list[ImportFile] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """Every event, each once."""
        every = [*(e for r in self.requests for e in r.events), *(e for f in self.imports for e in f.events)]
        every += [each.event for each in self.bus]
        yield from {(event.project, event.id): event for event in every}.values()


def plan(options: Options) -> Workload:
    """The workload of a history."""
    return _Planner(options).plan()


class _Planner:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.rnd = options.random("workload")
        self.start, self.seconds = options.started_at, options.hours * HOUR_SECONDS
        self.numbers = 0
        self.sent: dict[str, list[Event]] = {project: [] for project in PROJECTS}
        rnd = options.random("users")
        self.users = {project: [f"user-{rnd.randbytes(4).hex()}" for _ in range(5)] for project in PROJECTS}
        rnd = options.random("clocks")  # of its own, so that other histories stay as they are
        self.kinds = [kind for kind in KINDS if not options.kinds or kind in options.kinds]
        self.askew = rnd.choice(ASKEW + AHEAD) if rnd.random() < ASKEW_HISTORIES else 0.0

    def plan(self) -> Workload:
        rnd, options = self.rnd, self.options
        found = Workload()
        edge = self.start - self.start % HOUR_SECONDS + HOUR_SECONDS
        borders = (edge - 35, edge + SLOT_EDGE_SECONDS - 15)  # … of an hour, and of a slot of stream records
        bursts = [self._moment(), *(each if each < self.start + self.seconds else self._moment() for each in borders)]
        times = sorted(
            rnd.choice(bursts) + rnd.random() * 30 if rnd.random() < 0.4 else self._moment()
            for _ in range(options.requests)
        )
        erased: dict[str, float] = {}
        for number in range(options.erasures):
            user, at = self.users[PROJECTS[0]][number], self.start + self.seconds * (0.2 + rnd.random())
            erased[user] = at
            found.erasures.append(Erasure(at, PROJECTS[0], user))
        for number, at in enumerate(times):
            request = self._request(number, at, erased)
            if number not in options.dropped:
                found.requests.append(request)
        for number in range(options.imports):
            at = self._moment()
            hours = [at - HOUR_SECONDS * rnd.choice((1, 2, 26, 50)) for _ in range(rnd.randint(1, 6))]
            events = tuple(self._event(PROJECTS[0], moment, self.users[PROJECTS[0]][-1]) for moment in hours)
            found.imports.append(ImportFile(at, PROJECTS[0], f"history-{number}.ndjson", events))
        for number in range(options.bus):
            at = self._moment()
            put = Event(PROJECTS[0], f"e{options.seed}-bus{number}", "level_up", None, float(int(at)), {"level": 1})
            found.bus.append(BusEvent(at, put))
        return found

    def _request(self, number: int, at: float, erased: dict[str, float]) -> Request:
        rnd = self.rnd
        project = rnd.choice((*PROJECTS, PROJECTS[0])) if self.options.neighbour else PROJECTS[0]
        ahead = rnd.choice(AHEAD) if rnd.random() < 0.2 else 0.0
        if self.askew:
            project, ahead = PROJECTS[0], self.askew  # of one client, which sends and regroups all the time
        events = []
        for _ in range(self._size(number)):
            known = [e for e in self.sent[project] if e.ahead == ahead and (e.user not in erased or rnd.random() < 0.3)]
            if known and rnd.random() < (0.5 if self.askew else 0.2):
                events.append(rnd.choice(known))  # in another request before
                continue
            users = [*(user for user in self.users[project] if erased.get(user, at) >= at), None]
            user = self.users[project][-1] if self.options.shape == "hot user" else rnd.choice(users)
            events.append(self._event(project, self._occurred(at), user, ahead))
        self.sent[project] += events
        by_sdk = all(_is_named_by_sdks(each.type) for each in events)
        by_sdk = by_sdk and self.options.random(f"door {number}").random() < self.options.sdks
        return Request(
            number,
            at,
            project,
            tuple({event.id: event for event in events}.values()),
            path=SDK_PATH if by_sdk else "/events",
            patience=rnd.choice((1, GIVE_UP_AFTER, GIVE_UP_AFTER)),
            regroups=rnd.random() < (0.7 if self.askew else 0.2),
            ahead=ahead,
            tells_time=bool(ahead) and self._tells_time(ahead),
        )

    def _tells_time(self, ahead: float) -> bool:
        """Whether the client with this clock does, which it does always or never."""
        return self.options.random(f"client {ahead}").random() < 0.7

    def _size(self, number: int) -> int:
        if number == 0 and self.options.shape in MANY:
            return MANY[self.options.shape]
        return self.rnd.choice((1, 1, 2, 3, 6))

    def _occurred(self, at: float) -> float:
        """Mostly a moment ago; some are late, some at the very edge of an hour, some ahead of their time."""
        rnd = self.rnd
        drawn = rnd.random()
        if self.askew and drawn < 0.5:  # by an edge, across which a minute more or less of correction lies
            return at - at % HOUR_SECONDS + rnd.choice((-1, 1)) * rnd.random() * 60
        if drawn < 0.6 or not self.options.spreads:
            return at - rnd.random() * 5
        if drawn < 0.8:
            return at - rnd.random() * LATE_HOURS * HOUR_SECONDS
        if drawn < 0.95:
            edge = at - at % HOUR_SECONDS - HOUR_SECONDS * rnd.choice((0, 0, 1))
            return edge + rnd.choice((-0.001, 0.0, 0.001))
        return at + rnd.random() * 50

    def _event(self, project: str, at: float, user: str | None, ahead: float = 0.0) -> Event:
        return replace(self._of_shape(project, round(at + ahead, 3), user), ahead=ahead)

    def _of_shape(self, project: str, at: float, user: str | None) -> Event:
        rnd = self.rnd
        self.numbers += 1
        event_id = f"e{self.options.seed}-{self.numbers}"
        shape = self.options.shape
        if shape == "many types" and rnd.random() < 0.9:
            return Event(project, event_id, f"type {self.numbers}", user, at, {})
        kind = rnd.choice(self.kinds)
        if kind == "page_view":
            path = f"/crawled/{self.numbers}" if shape == "many values" and rnd.random() < 0.9 else rnd.choice(PATHS)
            return Event(project, event_id, kind, user, at, {"path": path, "country": rnd.choice(COUNTRIES)})
        if kind == "identify" and user:
            return Event(project, event_id, kind, user, at, {"plan": rnd.choice(("free", "paid")), "age": self.numbers})
        if kind == "purchase":
            return Event(project, event_id, kind, user, at, {"currency": "EUR", "revenue": rnd.randint(1, 9)})
        return Event(project, event_id, kind, user, at, self._odd(rnd))

    def _odd(self, rnd: random.Random) -> dict[str, Any]:
        if self.options.shape == "deep" and rnd.random() < 0.5:
            deep: Any = 1
            for _ in range(rnd.choice((20, 200))):
                deep = [deep]
            return {"deep": deep}
        if self.options.shape == "wide" and rnd.random() < 0.5:
            return {"wide": [[] for _ in range(rnd.choice((100, 5000)))]}
        if self.options.shape == "hostile" and rnd.random() < 0.3:
            return {"hostile": [[]] * 25_000}  # 75 KB as JSON, 2 MB as objects, some hundred bytes as gzip
        return {"level": rnd.randint(1, 3)}

    def _moment(self) -> float:
        return self.start + self.rnd.random() * self.seconds


def _is_named_by_sdks(event_type: str) -> bool:
    """Whether SDKs' events of the type come to the same type."""
    return event_type in _SDK_KINDS or event_type in ("purchase", "level_up")


def iso(at: float) -> str:
    """RFC 3339 with milliseconds."""
    moment = datetime.fromtimestamp(round(at, 3), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def hour_name(at: float) -> str:
    """The UTC hour, such as 2026-11-21T10."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H}"
