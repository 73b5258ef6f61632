"""The demo's traffic, made worse: late and early events, regrouped retries, SDKs, two projects, refused events.

Each event is given a time whose hour is certain, however often and how late it is sent: the balance compares hours.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from random import Random
from typing import Any

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of, iso_ms, parse_ms
from demo.traffic import Batch, Run, batches

Event = dict[str, Any]

PROJECTS = ("demo", "other")  # which every local cloud has: localcloud/seeds.py
OF_THE_FIRST = 0.8  # of the requests
HOURS_BACK = 6  # in which late events occurred
LATE = 0.1  # of the requests of people who are there, beside those that the demo has late
EARLY, EARLY_MS = 0.02, (5_000, 45_000)
BY_SDK = 0.15
INVALID = 0.02  # of the requests have an event more that the contract refuses
REGROUPED = 0.5  # of the late ones: sent again later, in other groups
REGROUPED_SECONDS = (1.0, 60.0)
IDENTIFY = 0.05  # of an SDK's requests begin with who it is
MARGIN_MS = 3 * MINUTE_MS  # around a full hour clocks are right: a correction could lead into either hour
NUMBER = slice(22, None)  # of an event id: demo/traffic.py

Cell = tuple[str, str, str]  # project, event type, hour


@dataclass(frozen=True, slots=True)
class Delivery(Batch):
    """A request as it is sent; `event_types` has those of its events that are to be acknowledged.

    `copies`: how many of them are stored a second time, because they come in another group than before.
    """

    project: str = PROJECTS[0]
    by_sdk: bool = False
    skew_ms: int | None = None  # of the client's clock, where it says when it sends
    events: list[Event] = field(default_factory=list, hash=False)
    cells: dict[str, Cell] = field(default_factory=dict, hash=False)  # by event id
    refused: int = 0
    copies: int = 0

    def written(self, now_ms: int) -> bytes:
        """The body of one attempt: a client says anew when it sends."""
        sent = {} if self.skew_ms is None else {"sentAt" if self.by_sdk else "sent_at": iso_ms(now_ms + self.skew_ms)}
        key, events = ("batch", [_message(event) for event in self.events]) if self.by_sdk else ("events", self.events)
        return json.dumps({key: events, **sent}, separators=(",", ":")).encode()


def deliveries(run: Run, seconds: float, now_ms: Callable[[], int]) -> Iterator[Delivery]:
    """Requests worth `seconds` in the order of their sending; `now_ms` is the clock of receipt."""
    traffic = _Traffic(run, now_ms)
    again: list[tuple[float, int, Delivery]] = []
    number = 0
    known: dict[bytes, Delivery] = {}  # by the demo's bytes: its duplicates are ours
    for batch in batches(run, seconds):
        while again and again[0][0] <= batch.at_seconds:
            yield heappop(again)[2]
        number += 1
        if batch.duplicate:
            first = known.pop(batch.body)
            yield _again(first, batch.at_seconds)
            continue
        delivery = traffic.delivery(batch)
        known[batch.body] = delivery
        if len(known) > 2000:
            del known[next(iter(known))]
        yield delivery
        for later in traffic.regrouped(delivery):
            number += 1
            heappush(again, (later.at_seconds, number, later))
    while again:
        yield heappop(again)[2]


class _Traffic:
    def __init__(self, run: Run, now_ms: Callable[[], int]) -> None:
        self.run, self.now_ms = run, now_ms
        self.random = Random(f"soak {run.seed} {run.run_id}")
        self.extra = 9_000_000

    def delivery(self, batch: Batch) -> Delivery:
        """The demo's request as one of ours."""
        document = json.loads(batch.body)
        planned_ms = self.run.start_ms + int(batch.at_seconds * 1000)
        skew_ms = parse_ms(document["sent_at"]) - planned_ms if "sent_at" in document else None
        events: list[Event] = document["events"]
        times = [parse_ms(event["timestamp"]) - (skew_ms or 0) for event in events]
        now = self.now_ms()
        back_ms = self._back_ms(now - max(times))
        times = [ms - back_ms for ms in times]
        if skew_ms and not all(self._is_certain(ms, now) for ms in times):
            skew_ms = 0
        if skew_ms is None and self.random.random() < EARLY and all(self._is_certain(ms, now) for ms in times):
            ahead_ms = self.random.randint(*EARLY_MS)
            times = [ms + ahead_ms for ms in times]
        by_sdk = self.random.random() < BY_SDK
        if by_sdk and events[0].get("user_id") and self.random.random() < IDENTIFY:
            events.insert(0, self._identify(events[0]))
            times.insert(0, times[0])
        project = PROJECTS[self.random.random() >= OF_THE_FIRST]
        events = [{**event, "timestamp": iso_ms(ms + (skew_ms or 0))} for event, ms in zip(events, times, strict=True)]
        cells = {
            event["event_id"]: (project, event["event_type"], hour_of(ms))
            for event, ms in zip(events, times, strict=True)
        }
        refused = int(self.random.random() < INVALID)
        events += [self._refused(events[0]) for _ in range(refused)]
        types = {event_id: cell[1] for event_id, cell in cells.items()}
        return Delivery(
            batch.at_seconds, b"", types, project=project, by_sdk=by_sdk, skew_ms=skew_ms, events=events, cells=cells,
            refused=refused,
        )  # fmt: skip

    def regrouped(self, first: Delivery) -> list[Delivery]:
        """A client's retry in other groups than before, for some of those whose hour is over.

        What comes in another group counts twice until its hour is closed: docs/guarantees.md. So none is of this hour.
        """
        events = [event for event in first.events if event["event_id"] in first.cells]
        users = {event.get("user_id") or event.get("anonymous_id") for event in events}
        over = all(hour < hour_of(self.now_ms() - MARGIN_MS) for _, _, hour in first.cells.values())
        if len(users) > 1 or len(events) < 2 or not over or self.random.random() >= REGROUPED:
            return []
        at = first.at_seconds + self.random.uniform(*REGROUPED_SECONDS)
        return [
            Delivery(
                at,
                b"",
                {event["event_id"]: event["event_type"] for event in part},
                duplicate=True,
                project=first.project,
                by_sdk=first.by_sdk,
                skew_ms=first.skew_ms,
                events=part,
                cells={event["event_id"]: first.cells[event["event_id"]] for event in part},
                copies=len(part),
            )
            for part in (events[::2], events[1::2])
        ]

    def _back_ms(self, age_ms: int) -> int:
        """How much further back, in whole hours, events go whose last one is so old."""
        if age_ms > HOURS_BACK * HOUR_MS:  # the demo's are late by days
            return -(age_ms // HOUR_MS // HOURS_BACK) * HOURS_BACK * HOUR_MS
        if age_ms < HOUR_MS and self.random.random() < LATE:
            return self.random.randint(1, HOURS_BACK - 1) * HOUR_MS
        return 0

    def _is_certain(self, ms: int, now: int) -> bool:
        """Whether a clock that is wrong, or ahead, leaves the event in its hour."""
        return hour_of(ms) == hour_of(ms + MINUTE_MS) and hour_of(now - MARGIN_MS) == hour_of(now + MARGIN_MS)

    def _identify(self, event: Event) -> Event:
        who = {name: event[name] for name in ("user_id", "anonymous_id") if event.get(name)}
        return {"event_type": "identify", "event_id": self._new_id(), **who, "properties": {"plan": "free"}}

    def _refused(self, event: Event) -> Event:
        wrong = {"event_type": "api_request", "properties": {"latency_ms": "slow"}}
        return {**event, **wrong, "event_id": self._new_id()}

    def _new_id(self) -> str:
        self.extra += 1
        return f"{self.run.id_prefix}{self.extra:07d}"


def _again(first: Delivery, at_seconds: float) -> Delivery:
    return Delivery(
        at_seconds, b"", first.event_types, duplicate=True, project=first.project, by_sdk=first.by_sdk,
        skew_ms=first.skew_ms, events=first.events, cells=first.cells, refused=first.refused,
    )  # fmt: skip


def _message(event: Event) -> Event:
    """An event as an SDK of Segment's sends it."""
    named = {"messageId": "event_id", "userId": "user_id", "anonymousId": "anonymous_id", "timestamp": "timestamp"}
    message = {theirs: event[ours] for theirs, ours in named.items() if event.get(ours)}
    if event["event_type"] == "identify":
        return {"type": "identify", "traits": event["properties"], **message}
    context = {"context": {"sessionId": event["session_id"]}} if event.get("session_id") else {}
    return {"type": "track", "event": event["event_type"], "properties": event["properties"], **message, **context}


def utc_now_ms() -> int:
    """The clock."""
    return int(datetime.now(UTC).timestamp() * 1000)
