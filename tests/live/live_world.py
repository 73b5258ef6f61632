"""Every stage that dashboards see, on empty stores, with a gateway and a stream of their own."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from typing import Any

import orjson
from botocore.exceptions import ClientError

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.events.contracts import Contracts
from chalicelib.hours.compact import Compactor
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from chalicelib.lake.lake import Lake
from chalicelib.live.push import Pusher
from chalicelib.live.sockets import Sockets
from chalicelib.live.subscribe import Subscriber
from chalicelib.rollups.facets import COUNTS
from localcloud.filters import compile_patterns
from localcloud.places import PROJECT
from tests.dashboard_client import Dashboard, shown
from tests.hours.finishing import finisher_of
from tests.stores import Stores, stream_record

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
NINE_MS = 1_795_251_600_000

Record = dict[str, Any]

_FILTERS = json.loads((PROJECT / "infra" / "triggers.json").read_text())["live"]["FilterCriteria"]["Filters"]
ACCEPTS = compile_patterns([json.loads(each["Pattern"]) for each in _FILTERS])  # as it is deployed


@dataclass
class Gateway:
    """Stands for the management API: keeps what each connection was sent, and fails as it is told to."""

    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    stuck: bool = False
    over: Event = field(default_factory=Event)

    def post_to_connection(self, ConnectionId: str, Data: bytes) -> None:
        if ConnectionId in self.hung:
            self.over.wait(60)
        if ConnectionId in self.gone:
            raise ClientError({"Error": {"Code": "GoneException"}}, "PostToConnection")
        if ConnectionId in self.failing:
            raise ClientError({"Error": {"Code": "LimitExceededException"}}, "PostToConnection")
        self.frames.setdefault(ConnectionId, []).append(orjson.loads(Data))

    def delete_connection(self, ConnectionId: str) -> None:
        if ConnectionId in self.hung:
            self.over.wait(60)
        if self.stuck:
            raise ClientError({"Error": {"Code": "LimitExceededException"}}, "DeleteConnection")
        self.ended.append(ConnectionId)


@dataclass
class World:
    """`now` is every stage's clock."""

    stores: Stores
    gateway: Gateway = field(default_factory=Gateway)
    now: datetime = NOW
    accepted: int = 0
    seen: dict[tuple[str, str], Record] = field(default_factory=dict)
    attempts: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        sockets = Sockets(lambda _: self.gateway)
        contracts = Contracts({})
        self.subscriber = Subscriber(self.stores.connections, self.stores.history, sockets, contracts, "ws://x")
        self.pusher = Pusher(self.stores.connections, sockets, contracts, pause_seconds=0)
        self.aggregator = Aggregator(contracts, self.stores.rollups, self.stores.bucket)
        self.compactor = Compactor(self.stores.rollups, self.stores.hours)
        client, s3 = self.stores.rollups.client, self.stores.bucket.client
        self.finisher = finisher_of(contracts, client, s3, lambda: self.seconds * 1000)
        self.archiver = Archiver(Lake(self.stores.bucket), self.stores.hours, self.stores.erased)

    @property
    def seconds(self) -> int:
        return int(self.now.timestamp())

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def connect(self, connection_id: str = "c1", topics: str = '["events"]', project: str = "demo") -> None:
        ticket = self.subscriber.issue_ticket(project, self.now)["ticket"]
        self.subscriber.connect(connection_id, "domain", "stage", ticket, self.now)
        self.subscribe(connection_id, topics)

    def subscribe(self, connection_id: str = "c1", topics: str = '["events"]') -> None:
        self.subscriber.message(connection_id, f'{{"action": "subscribe", "topics": {topics}}}', self.now)

    def dashboard(self, connection_id: str = "c1") -> Dashboard:
        """What a client shows that got the connection's frames."""
        return shown(self.gateway.frames.get(connection_id, []))

    def analytics(self, project: str = "demo") -> int:
        """What GET /analytics says of all events of the last 24 hours."""
        last = int(self.now.timestamp() * 1000)
        hours = self.stores.history.hours(project, None, COUNTS, hour_of(last - 23 * HOUR_MS), hour_of(last))
        return sum(rollup.count for rollup in hours.values())

    def events(
        self, number: int, event_type: str = "click", *, hours_ago: int = 0, project: str = "demo"
    ) -> list[Record]:
        """New events as records of the events table's stream."""
        at = NINE_MS - hours_ago * HOUR_MS + self.accepted % 60 * MINUTE_MS
        events = [
            {"event_id": f"e{self.accepted + i}", "event_type": event_type, "user_id": f"u{i}", "occurred_at": at}
            for i in range(number)
        ]
        message = Message(project, int(self.now.timestamp() * 1000), events)
        records = [stream_record(chunk, self.accepted + n) for n, chunk in enumerate(chunks_of(message))]
        self.accepted += number
        return records

    def aggregate(self, records: list[Record]) -> list[Record]:
        """Aggregate a batch; returns what the rollups table's stream then has."""
        self.aggregator.aggregate(records, int(self.now.timestamp() * 1000) + next(self.attempts))
        return self.stream()

    def push(self, records: list[Record]) -> int:
        return self.pusher.push(records, self.seconds)

    def stream(self) -> list[Record]:
        """The records of the rollups table that `live` gets by its trigger's filter, of what was written since last."""
        found = {
            (item["pk"]["S"], item["sk"]["S"]): item
            for item in self.stores.items("rollups")
            if ACCEPTS({"dynamodb": {"NewImage": item, "Keys": {"pk": item["pk"], "sk": item["sk"]}}})
        }
        records = [
            record_of(item, "MODIFY" if place in self.seen else "INSERT")
            for place, item in found.items()
            if item != self.seen.get(place)
        ]
        self.seen = found
        return records


def record_of(item: Record, name: str = "INSERT") -> Record:
    """An item as Lambda hands it over."""
    image = {k: {"B": b64encode(v["B"]).decode()} if "B" in v else v for k, v in item.items()}
    return {"eventID": f"{item['pk']['S']}/{item['sk']['S']}", "eventName": name, "dynamodb": {"NewImage": image}}
