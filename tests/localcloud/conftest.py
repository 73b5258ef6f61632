"""The parts of the local cloud one by one: the services in this process, functions made up by each test."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from localcloud.functions import Functions
from localcloud.pump import Pump
from localcloud.wire import FunctionsApi
from tests.localcloud.analysts import Place
from tests.localcloud.memory_place import MemoryPlace
from tests.localcloud.services import Services

NewPlace = Callable[[], MemoryPlace | Place]


@dataclass
class Recorder:
    """A functions process whose one function does what the test says, and remembers what it got."""

    behave: Callable[[dict[str, Any], int], Any] = field(default=lambda _event, _number: None)
    events: list[dict[str, Any]] = field(default_factory=list)
    server: Functions | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # As the supervisor does it: nobody else is given the port while nothing listens.
        self.held = socket.socket()
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.held.bind(("127.0.0.1", 0))

    def __call__(self, event: dict[str, Any], _context: Any) -> Any:
        with self.lock:
            self.events.append(event)
            number = len(self.events)
        return self.behave(event, number)

    def start(self) -> FunctionsApi:
        """Listen; again after `stop`, at the same port."""
        port = self.held.getsockname()[1]
        self.server = Functions({"worker": self}, {}, [], port)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return FunctionsApi(port, timeout_seconds=5)

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self.server is not None:
            self.server.finish()
            self.server = None


@pytest.fixture
def function() -> Iterator[Recorder]:
    """A function named worker."""
    recorder = Recorder()
    yield recorder
    recorder.stop()
    recorder.held.close()


@pytest.fixture
def pumps() -> Iterator[list[Pump]]:
    """Pumps put here end with the test."""
    started: list[Pump] = []
    yield started
    for pump in started:
        pump.stop()
    for pump in started:
        pump.join(10)


@pytest.fixture
def new_place(request: pytest.FixtureRequest) -> NewPlace:
    """Makes empty lakes, in memory; with LAKES_ON=emulator on the local cloud's services."""
    if os.environ.get("LAKES_ON") != "emulator":
        return MemoryPlace
    services: Services = request.getfixturevalue("services")
    return lambda: Place(services)
