"""Realistic traffic as request bodies in the order of their sending; pure: the same arguments give the same bytes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random

from demo.people import Person, population
from demo.visits import Event, Visit, api_request, email_opened

LATE_DAYS = 3  # the longest that a device stays offline
DUPLICATES = 0.04  # of the requests are delivered again, byte by byte
DUPLICATE_SECONDS = (0.05, 4.0)  # how much later
LATE = 0.2  # of the apps' requests hold a visit of hours or days ago
SOURCES = (("browser", 17), ("app", 3), ("server", 1))  # requests; they hold about 2, 12 and 30 events
UNKNOWN_TYPES = frozenset({"wishlist_add", "video_play", "email_opened"})  # types without a contract
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Batch:
    """One request. `at_seconds` counts from the run's start; `event_types` holds the type of each event by its id."""

    at_seconds: float
    body: bytes
    event_types: dict[str, str] = field(hash=False)
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What makes traffic the same or another: event ids are made of all of it."""

    seed: int
    run_id: str
    rate: float  # events per second, duplicates not counted
    start_ms: int

    @property
    def id_prefix(self) -> str:
        """What the ids of this run's events begin with, and no others."""
        text = f"{self.seed}/{self.run_id}/{self.rate:g}"
        return f"demo-{blake2b(text.encode(), digest_size=8).hexdigest()}-"


def batches(run: Run, seconds: float) -> Iterator[Batch]:
    """Requests worth `seconds` at the run's rate, ordered by `at_seconds`; a longer run begins with the same ones."""
    traffic = _Traffic(run)
    again: list[tuple[float, int, Batch]] = []
    sent_events = 0
    number = 0
    while (at_seconds := sent_events / run.rate) < seconds:
        while again and again[0][0] <= at_seconds:
            yield heappop(again)[2]
        batch = traffic.request(at_seconds)
        yield batch
        sent_events += len(batch.event_types)
        number += 1
        if traffic.random.random() < DUPLICATES:
            later = at_seconds + traffic.random.uniform(*DUPLICATE_SECONDS)
            heappush(again, (later, number, Batch(later, batch.body, batch.event_types, duplicate=True)))
    while again:
        yield replace(heappop(again)[2], at_seconds=seconds)  # the run is over: nobody waits for the last of them


class _Traffic:
    """The people who are active, and the requests that their clients make."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.people = population(Random(f"people {run.seed}"), 2000)
        self.browsers = [person for person in self.people if not person.uses_app]
        self.apps = [person for person in self.people if person.uses_app]
        self.random = Random(f"traffic {run.seed} {run.run_id} {run.rate:g}")
        self.prefix = run.id_prefix
        self.next_id = 0
        self.next_session = 0
        # People read a page for some seconds: so many visits go on at a time. Most began before the run.
        self.visits = [(self._visit(run.start_ms), self._session_id()) for _ in range(max(4, int(run.rate * 3)))]
        for visit, _ in self.visits:
            visit.fresh = self.random.random() < 0.2

    def request(self, at_seconds: float) -> Batch:
        """Return the next request."""
        source = self.random.choices([row[0] for row in SOURCES], [row[1] for row in SOURCES])[0]
        now_ms = self.run.start_ms + int(at_seconds * 1000)
        if source == "browser":
            return self._from_browser(at_seconds, now_ms)
        if source == "app":
            return self._from_app(at_seconds, now_ms)
        return self._from_server(at_seconds, now_ms)

    def _from_browser(self, at_seconds: float, now_ms: int) -> Batch:
        """Return one step of a visit, sent at once."""
        index = self.random.randrange(len(self.visits))
        visit, session_id = self.visits[index]
        steps = visit.step(self.random)
        if visit.over:
            self.visits[index] = (self._visit(now_ms), self._session_id())
        times = sorted(now_ms - self.random.randint(1, 900) for _ in steps)
        events = [self._stamp(event, visit.person, session_id, ms) for event, ms in zip(steps, times, strict=True)]
        return self._batch(at_seconds, events)

    def _from_app(self, at_seconds: float, now_ms: int) -> Batch:
        """Return a whole visit, kept on the device until it has a connection: seconds, or days."""
        left_ms = now_ms - self.random.randint(500, 20_000)
        if self.random.random() < LATE:
            left_ms = now_ms - self.random.randint(600_000, LATE_DAYS * DAY_MS)
        visit = Visit.begin(self._awake(self.apps, left_ms), self.random)
        steps: list[Event] = []
        while not visit.over and len(steps) < 60:
            steps += visit.step(self.random)
        ends = [left_ms]
        for _ in steps[1:]:
            ends.append(ends[-1] - int(self.random.lognormvariate(7.6, 0.9)))
        earliest_ms = now_ms - LATE_DAYS * DAY_MS
        session_id = self._session_id()
        skew_ms = visit.person.skew_ms
        events = [
            self._stamp(event, visit.person, session_id, max(ms, earliest_ms) + skew_ms)
            for event, ms in zip(steps, reversed(ends), strict=True)
        ]
        return self._batch(at_seconds, events, sent_at_ms=now_ms + skew_ms)

    def _from_server(self, at_seconds: float, now_ms: int) -> Batch:
        """Return what a server gathered in two seconds, of many people."""
        people = [person for person in self.random.choices(self.people, k=12) if person.user_id]
        events = []
        for _ in range(self.random.randint(15, 45)):
            made = email_opened(self.random) if self.random.random() < 0.02 else api_request(self.random)
            event = self._stamp(made, None, None, now_ms - self.random.randint(1, 2000))
            if people:
                event["user_id"] = self.random.choice(people).user_id
            events.append(event)
        return self._batch(at_seconds, events)

    def _visit(self, at_ms: int) -> Visit:
        return Visit.begin(self._awake(self.browsers, at_ms), self.random)

    def _awake(self, people: list[Person], at_ms: int) -> Person:
        """Somebody, the more likely the more active they are at that hour of their day."""
        while True:
            person = self.random.choice(people)
            if self.random.random() < person.activity(at_ms):
                return person

    def _stamp(self, event: Event, person: Person | None, session_id: str | None, at_ms: int) -> Event:
        self.next_id += 1
        who: Event = {}
        if person is not None:
            who = {"user_id": person.user_id} if person.user_id else {}
            who |= {"anonymous_id": person.anonymous_id, "session_id": session_id}
        head = {"event_type": event["event_type"], "event_id": f"{self.prefix}{self.next_id:07d}"}
        return {**head, **who, "timestamp": _rfc3339(at_ms), "properties": event["properties"]}

    def _session_id(self) -> str:
        self.next_session += 1
        return f"{self.prefix}s{self.next_session}"

    def _batch(self, at_seconds: float, events: list[Event], sent_at_ms: int | None = None) -> Batch:
        document: Event = {"events": events}
        if sent_at_ms is not None:
            document["sent_at"] = _rfc3339(sent_at_ms)
        body = json.dumps(document, separators=(",", ":")).encode()
        return Batch(at_seconds, body, {event["event_id"]: event["event_type"] for event in events})


def _rfc3339(ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
