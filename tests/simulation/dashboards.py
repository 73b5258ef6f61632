"""A dashboard's socket: what the web page does with the frames that come. A number is the snapshot's totals plus, by
id, the latest delta that came with it, except ids that the snapshot names as absorbed (dashboard/index.html).
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.faults import Mix
from tests.simulation.gateway import CONNECT, DISCONNECT, MESSAGE, Gateway
from tests.simulation.ports.sockets import Connections, Socket

MAXIMUM_SECONDS = 2 * 3600.0  # API Gateway ends a connection
RECONNECT_SECONDS = 5.0


@dataclass
class View:
    """What is known of one subscription."""

    since: str = ""
    ready: bool = False
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    totals: list[dict[str, Any]] = field(default_factory=list)
    deltas: dict[str, dict[str, Any]] = field(default_factory=dict)
    absorbed: set[str] = field(default_factory=set)

    def receive(self, frame: dict[str, Any]) -> None:
        """Take in a frame of the server."""
        if frame["type"] == "delta":
            for delta in frame["deltas"]:
                self._put(delta)
        elif frame["type"] == "snapshot" and not self.ready:
            self.parts[frame["part"]] = frame
            if len(self.parts) == frame["parts"]:
                self._open()

    def counts(self) -> Counter[tuple[str, str]]:
        """Events by metric and hour."""
        found: Counter[tuple[str, str]] = Counter()
        for metrics in [*self.totals, *(delta["metrics"] for delta in self.deltas.values())]:
            for name, metric in metrics.items():
                for minute, count in metric["minutes"].items():
                    found[name, minute[:13]] += count
        return found

    def _put(self, delta: dict[str, Any]) -> None:
        if delta["id"] not in self.absorbed:
            self.deltas[delta["id"]] = delta

    def _open(self) -> None:
        parts = [self.parts[number] for number in sorted(self.parts)]
        self.absorbed = {name for part in parts for name in part["absorbed"]}
        for name in self.absorbed:
            self.deltas.pop(name, None)
        for delta in (delta for part in parts for delta in part["deltas"]):
            kept = self.deltas.get(delta["id"])
            if kept is None or _size(kept) < _size(delta):
                self._put(delta)
        self.totals = [part["totals"] for part in parts]
        self.since, self.ready, self.parts = parts[0]["since"], True, {}


@dataclass
class Dashboard:
    """Connects, subscribes, shows; and comes back when its connection ends."""

    project: str
    key: str
    number: int
    gateway: Gateway
    sockets: Connections
    mix: Mix
    rnd: Any
    reached: Callable[[str], None]
    again: Callable[[], None] = lambda: None  # starts another actor with `run`
    view: View = field(default_factory=View)
    connection: str = ""
    connections: int = 0
    frames: int = 0

    def run(self) -> None:
        """An actor's work: get a connection, which is followed by another when it ends."""
        while not self._connect():
            self.gateway.scheduler.pause(RECONNECT_SECONDS)

    def _connect(self) -> bool:
        ticket = self.gateway.send("POST", "/realtime/tickets", self.key)
        if ticket.status != 201:
            return False
        self.connections += 1
        name = f"{self.project}-{self.number}-{self.connections}"
        self.view = View()
        scheduler = self.gateway.scheduler
        query = {"ticket": ticket.body["ticket"]}
        self.sockets.open[name] = Socket(lambda frame: self._receive(name, frame), lambda: self._closed(name))
        answer = self.gateway.call_frame(CONNECT, name, queryStringParameters=query)
        if answer is None or answer["statusCode"] != 200:
            self.sockets.open.pop(name, None)
            return False
        self.connection = name
        body = json.dumps({"action": "subscribe", "topics": ["events"]})
        self.gateway.frame(MESSAGE, name, lambda _result, _error: None, body=body)
        scheduler.after(MAXIMUM_SECONDS, lambda: self._break(name, "the gateway ended a connection"))
        scheduler.after(20.0, lambda: self._look(name))
        return True

    def _receive(self, name: str, frame: bytes) -> None:
        if name != self.connection:
            return
        self.frames += 1
        self.view.receive(json.loads(frame))
        if self.rnd.random() < self.mix.gone:
            self.gateway.scheduler.after(0.0, lambda: self._break(name, "a socket that broke"))
        elif self.rnd.random() < self.mix.hang:
            self.reached("a socket that hangs")
            self.sockets.open[name].hangs = True
            self.gateway.scheduler.after(120.0, lambda: self._break(name, "a hanging socket that broke"))

    def _look(self, name: str) -> None:
        """Without a snapshot there is nothing to show."""
        if name == self.connection and not self.view.ready:
            self._break(name, "a socket without its snapshot")

    def _break(self, name: str, why: str) -> None:
        if self.sockets.open.pop(name, None):
            self.reached(why)
            self.gateway.frame(DISCONNECT, name, lambda _result, _error: None)
            self._closed(name)

    def _closed(self, name: str) -> None:
        if name == self.connection:
            self.connection = ""
            self.gateway.scheduler.after(RECONNECT_SECONDS, self.again)


def _size(delta: dict[str, Any]) -> int:
    return sum(int(metric["count"]) for metric in delta["metrics"].values())
