"""What the end-to-end tests do to a running stack: send, ask, watch. Each answer is held to the API's description."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import websockets

from tests.dashboard_client import Dashboard
from tests.description import hold

ANSWER_SECONDS = 120  # on a machine that has other things to do; it only keeps a test from waiting for ever
QUERY_SECONDS = 120  # the local Athena ends a query then


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body of a response."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Api:
    """The REST API of a running stack."""

    url: str

    def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; an error status is an answer like any other."""
        sent = {"Content-Type": "application/json", **({"x-api-key": key} if key else {}), **(headers or {})}
        request = urllib.request.Request(self.url + path, data=body, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
                answer = _answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                answer = _answer(error.code, error.headers, error.read())
        hold(method, path, answer.status, answer.headers, answer.body)
        return answer

    def finished(self, answer: Answer, key: str, limit: int = 1000) -> Answer:
        """The answer of a query or report that was asked; of one that takes long, as soon as it is there."""
        deadline = time.monotonic() + QUERY_SECONDS
        while answer.status == 202:
            assert time.monotonic() < deadline, f"after {QUERY_SECONDS} s: {answer}"
            time.sleep(0.2)
            answer = self.call("GET", f"/query/{answer.body['id']}?limit={limit}", key=key)
        return answer

    def post(self, events: list[dict[str, Any]], key: str = "demo-write") -> Answer:
        """POST /events."""
        return self.call("POST", "/events", key=key, body=json.dumps({"events": events}).encode())

    def total(self, metric: str, key: str = "demo-read", **more: str) -> int:
        """The total of GET /analytics over yesterday, today and tomorrow."""
        now = datetime.now(UTC)
        start, end = now - timedelta(days=1), now + timedelta(days=1)
        query = "&".join(f"{k}={v}" for k, v in {"metric": metric, **more}.items())
        answer = self.call("GET", f"/analytics?{query}&start={start:%Y-%m-%d}&end={end:%Y-%m-%d}", key=key)
        if answer.status == 404:
            return 0  # no event of the type has arrived yet
        assert answer.status == 200, answer
        total: int = answer.body["total"]
        return total

    def ledger(self, key: str = "demo-read") -> list[dict[str, Any]]:
        """The ledger of the hour before this one and of this one."""
        answer = self.call("GET", "/realtime/metrics", key=key)
        assert answer.status == 200, answer
        hours: list[dict[str, Any]] = answer.body["ledger"]
        return hours

    def sql(self, text: str, key: str = "demo-read") -> list[list[Any]]:
        """The rows of POST /query."""
        answer = self.finished(self.call("POST", "/query", key=key, body=json.dumps({"sql": text}).encode()), key)
        assert answer.status == 200, answer
        rows: list[list[Any]] = answer.body["rows"]
        return rows


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    lower = {name.lower(): value for name, value in headers.items()}
    return Answer(status, lower, json.loads(body) if "json" in lower.get("content-type", "") else body)


def eventually(found: Callable[[], Any], expected: Any, *, seconds: float) -> None:
    """Wait until `found()` equals what is expected; fails with both when it does not within the time."""
    deadline = time.monotonic() + seconds
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"after {seconds} s: {last}, expected {expected}"
        time.sleep(0.2)


@dataclass
class Watcher:
    """A dashboard: follows the client's rule, and remembers when each count was reached."""

    api: Api
    topic: str
    key: str = "demo-read"
    dashboard: Dashboard = field(default_factory=Dashboard)
    reached: list[tuple[float, int]] = field(default_factory=list)

    async def watch(
        self, done: Callable[[int], bool], *, ready: asyncio.Event | None = None, seconds: float = 60
    ) -> int:
        """Subscribe and follow until `done(total)`; returns the last total."""
        answer = await asyncio.to_thread(self.api.call, "POST", "/realtime/tickets", key=self.key)
        subscribe = json.dumps({"action": "subscribe", "topics": [self.topic]})
        async with asyncio.timeout(seconds):
            async with websockets.connect(answer.body["url"]) as socket:
                await socket.send(subscribe)
                async for text in socket:
                    frame = json.loads(text)
                    assert frame["type"] in ("snapshot", "delta", "resync"), frame
                    self.dashboard.take(frame)
                    self.reached.append((time.monotonic(), self.total))
                    if frame["type"] == "resync":
                        await socket.send(subscribe)
                    if ready is not None and self.dashboard.shown:
                        ready.set()
                    if self.dashboard.shown and done(self.total):
                        break
        return self.total

    @property
    def total(self) -> int:
        """What the dashboard shows."""
        return self.dashboard.total
