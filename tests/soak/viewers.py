"""Dashboards that follow the client's rule, among them one that keeps losing its connection and one that hangs."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

import websockets

from demo.client import Client
from tests.dashboard_client import Dashboard

SUBSCRIBE = json.dumps({"action": "subscribe", "topics": ["events"]})
PING = json.dumps({"action": "ping"})
PING_SECONDS = 15.0
PATIENCE_SECONDS = 20.0  # for a snapshot, or any frame: docs/api.md
AWAY_SECONDS = (0.5, 3.0)  # between two connections
STAYS_SECONDS = (5.0, 25.0)  # of the one that keeps losing its connection
STUCK_SECONDS = 2.0  # between two subscriptions of the one that hangs: each brings a snapshot that it does not take
HANGS_TIMES = 20


@dataclass
class Viewer:
    """A dashboard of a project. `drops`: it loses its connection every few seconds."""

    url: str
    project: str
    drops: bool
    random: Random
    note: Callable[[str, str], None]
    dashboard: Dashboard = field(default_factory=Dashboard)
    connections: int = 0

    def counts(self) -> Counter[str]:
        """What it shows, by metric."""
        return Counter(self.dashboard.counts())

    async def watch(self) -> None:
        """Stay connected, until cancelled."""
        while True:
            with suppress(OSError, TimeoutError, http.client.HTTPException, websockets.WebSocketException):
                await self._connect()
            await asyncio.sleep(self.random.uniform(*AWAY_SECONDS))

    async def _connect(self) -> None:
        address = await asyncio.to_thread(ticket, self.url, self.project)
        async with websockets.connect(address, max_size=None) as connection:
            self.connections += 1
            if not self.drops:
                await self._follow(connection)
                return
            try:
                async with asyncio.timeout(self.random.uniform(*STAYS_SECONDS)):
                    await self._follow(connection)
            except TimeoutError:
                self.note("socket dropped", self.project)
                connection.transport.abort()  # without a word

    async def _follow(self, connection: websockets.ClientConnection) -> None:
        coming = Dashboard()  # what is shown stays until the new snapshot is whole
        await connection.send(SUBSCRIBE)
        asked_at = heard_at = time.monotonic()
        while True:
            try:
                frame = json.loads(await asyncio.wait_for(connection.recv(), PING_SECONDS))
            except TimeoutError:
                if time.monotonic() - heard_at > PING_SECONDS + PATIENCE_SECONDS:
                    return
                await connection.send(PING)
                continue
            heard_at = time.monotonic()
            if frame.get("type") == "resync":
                await connection.send(SUBSCRIBE)
                asked_at = heard_at
            elif frame.get("type") in (None, "error"):
                return  # of the gateway, or of the app: from the start
            coming.take(frame)
            if coming.shown is not None:
                self.dashboard = coming
            if coming.shown is not coming.book and heard_at - asked_at > PATIENCE_SECONDS:
                return


async def hang(url: str, project: str, note: Callable[[str, str], None]) -> None:
    """Connect and subscribe, again and again, and take nothing; anew when that is ended."""
    while True:
        with suppress(OSError, TimeoutError, http.client.HTTPException, websockets.WebSocketException):
            address = await asyncio.to_thread(ticket, url, project)
            async with asyncio.timeout(2 * STUCK_SECONDS * HANGS_TIMES):  # a send may hang as well
                narrow = socket.socket()
                narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                narrow.connect((urlsplit(address).hostname, urlsplit(address).port))
                narrow.setblocking(False)
                options: dict[str, Any] = {"max_queue": 1, "ping_interval": None, "close_timeout": 1}
                async with websockets.connect(address, sock=narrow, **options) as connection:
                    note("socket hangs", project)
                    for _ in range(HANGS_TIMES):
                        await connection.send(SUBSCRIBE)
                        await asyncio.sleep(STUCK_SECONDS)
                    connection.transport.abort()
        await asyncio.sleep(1)


def ticket(url: str, project: str) -> str:
    """The address of a connection; raises what `Client` raises, OSError where there is no ticket."""
    client = Client(url)
    try:
        answer = client.request("POST", "/realtime/tickets", key=f"{project}-read", body=b"{}")
    finally:
        client.close()
    if answer.status != 201:
        raise OSError(f"no ticket: {answer.status}")
    address: str = json.loads(answer.body)["url"]
    return address


@contextmanager
def watching(
    viewers: Iterable[Viewer], hanging: Iterable[tuple[str, str]], note: Callable[[str, str], None]
) -> Iterator[None]:
    """All of them at work, in a thread of their own."""
    loop = asyncio.new_event_loop()

    async def everybody() -> None:
        async with asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(viewer.watch())
            for url, project in hanging:
                group.create_task(hang(url, project, note))

    main = loop.create_task(everybody())

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(main)

    thread = threading.Thread(target=run, name="viewers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(main.cancel)
        thread.join(10)
        if not thread.is_alive():
            loop.close()
