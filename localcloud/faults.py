"""AWS's bad days, on demand: calls that are refused, get no answer or take effect late, messages that come again.

`faults.json` in the state folder switches them on while it is there: {"seed": 7, "strength": 1}. The seed decides when
which service has a bad spell and how each call fares; a strength of 2 has twice as many. What was done to whom is in
`logs/faults.log`, a JSON object a line. Only calls that come through an SDK are touched: the local cloud's own are not
AWS's.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from localcloud.places import Places
from localcloud.wire import FunctionFailed, FunctionsApi

Asgi = Callable[[Any, Any, Any], Any]

# Of a call, and of an invocation
REFUSED = "refused"  # throttled: nothing happened
SILENT = "silent"  # no answer, and nothing happened
LOST = "lost"  # it happened, and the answer says that it failed
DEAF = "deaf"  # it happened, and no answer comes
LATE = "late"  # no answer comes, and it happens only after the caller has given up
AGAIN = "again"  # an old message of a queue is delivered once more beside
OF_CALLS = (REFUSED, SILENT, LOST, DEAF, LATE)
OF_INVOCATIONS = (REFUSED, LOST, AGAIN)

CALLS = 0.002  # of the calls, at any time
INVOCATIONS = 0.03
SPELL_EVERY_SECONDS, SPELL_SECONDS = 15.0, (0.5, 4.0)  # of one service and one kind
SPELL_SHARES = (0.3, 0.9)  # of its calls meanwhile
SERVICES = ("dynamodb", "dynamodb", "sqs", "s3", "states")  # tables are called most
HANG_SECONDS = 6.0  # longer than the app's clients wait: chalicelib/wiring.py
FUNCTIONS_OF_QUEUES = ("process",)
KEPT_MESSAGES = 50


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which one service fares badly, in seconds since the faults began."""

    start: float
    end: float
    service: str
    kind: str
    share: float


@dataclass
class Faults:
    """Decides what goes wrong; any thread may ask."""

    places: Places
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked_at: float = float("-inf")
    _settings: bytes = b""
    _strength: float = 0.0  # 0: nothing goes wrong
    _random: Random = field(default_factory=Random)
    _began: float = 0.0
    _spell: Spell | None = None
    _messages: "deque[tuple[str, bytes]]" = field(default_factory=lambda: deque(maxlen=KEPT_MESSAGES))

    def of_call(self, service: str) -> str | None:
        """Return what becomes of a call to a service, if anything."""
        with self._lock:
            if not self._strength_now():
                return None
            spell = self._spell_now()
            if spell.service == service and self._random.random() < spell.share:
                return spell.kind
            return self._random.choice(OF_CALLS) if self._random.random() < CALLS * self._strength else None

    def of_invocation(self, function: str, payload: bytes) -> tuple[str | None, bytes]:
        """Return what becomes of an invocation, if anything, and the old message where one comes AGAIN."""
        with self._lock:
            if not self._strength_now():
                return None, b""
            kind = self._random.choice(OF_INVOCATIONS) if self._random.random() < INVOCATIONS * self._strength else None
            if function not in FUNCTIONS_OF_QUEUES:
                return (None if kind == AGAIN else kind), b""
            self._messages.append((function, payload))
            old = self._random.choice(self._messages)[1] if kind == AGAIN else b""
            return kind, old

    def note(self, kind: str, where: str) -> None:
        """Write down what was done."""
        line = json.dumps({"at": round(time.time(), 3), "kind": kind, "where": where}) + "\n"
        with self._lock, (self.places.logs / "faults.log").open("a") as log:
            log.write(line)

    def _strength_now(self) -> float:
        now = self.clock()
        if now - self._looked_at >= 1.0:
            self._looked_at = now
            try:
                settings = self.places.faults.read_bytes()
            except FileNotFoundError:
                settings = b""
            if settings != self._settings:
                self._settings = settings
                asked = json.loads(settings or b'{"strength": 0}')
                self._strength = float(asked["strength"])
                self._random = Random(asked.get("seed"))
                self._began, self._spell = now, None
                self._messages.clear()
        return self._strength

    def _spell_now(self) -> Spell:
        """The spell that is on, or the next one."""
        now = self.clock() - self._began
        while self._spell is None or self._spell.end < now:
            start = (self._spell.end if self._spell else 0.0) + self._random.expovariate(
                self._strength / SPELL_EVERY_SECONDS
            )
            self._spell = Spell(
                start,
                start + self._random.uniform(*SPELL_SECONDS),
                self._random.choice(SERVICES),
                self._random.choice(OF_CALLS),
                self._random.uniform(*SPELL_SHARES),
            )
        return self._spell if self._spell.start <= now else _NO_SPELL


_NO_SPELL = Spell(0, 0, "", "", 0)


def with_faults(app: Asgi, faults: Faults) -> Asgi:
    """Return the services, as far as faults let callers have them."""

    async def troubled(scope: Any, receive: Any, send: Any) -> None:
        called = _called(scope) if scope["type"] == "http" else None
        kind = faults.of_call(called[0]) if called else None
        if called is None or kind is None:
            await app(scope, receive, send)
            return
        faults.note(kind, " ".join(called))
        body = await _body(receive)
        if kind == LATE:
            await asyncio.sleep(HANG_SECONDS)
        if kind in (LOST, DEAF, LATE):
            await app(scope, _replayed(body), _swallow)
        if kind in (SILENT, DEAF):
            await asyncio.sleep(HANG_SECONDS)
        await _answer(send, called[0], refused=kind == REFUSED)

    return troubled


class TroubledFunctions(FunctionsApi):
    """The functions process, whose answers get lost at times, and to which messages come again."""

    def __init__(self, port: int, faults: Faults) -> None:
        super().__init__(port)
        self.faults = faults

    def invoke(self, name: str, payload: bytes) -> Any:
        """As FunctionsApi has it."""
        kind, old = self.faults.of_invocation(name, payload)
        if kind is not None:
            self.faults.note(kind, name)
        if kind == REFUSED:
            raise FunctionFailed(f"{name} was throttled", "Lambda.TooManyRequestsException")
        if kind == AGAIN:
            super().invoke(name, old)
        value = super().invoke(name, payload)
        if kind == LOST:
            raise FunctionFailed(f"{name} did its work, and its answer was lost")
        return value


def _called(scope: Any) -> tuple[str, str] | None:
    """Return which service an SDK calls, and for what; None when it is no SDK that calls."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    credential = headers.get(b"authorization", "").partition("Credential=")[2].split("/")
    if not headers.get(b"user-agent", "").startswith("Boto3") or len(credential) < 5:
        return None
    action = headers.get(b"x-amz-target", "").rpartition(".")[2] or scope["method"]
    return credential[3], action


async def _body(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replayed(body: bytes) -> Any:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        return {"type": "http.disconnect"}

    return receive


async def _swallow(_message: Any) -> None:
    """The caller does not hear of it."""


async def _answer(send: Any, service: str, *, refused: bool) -> None:
    """What AWS says when it throttles, or fails; in the words of S3, or of the others."""
    code = "SlowDown" if refused else "InternalError"
    status, kind, body = 503 if refused else 500, b"application/xml", f"<Error><Code>{code}</Code></Error>".encode()
    if service != "s3":
        name = "ThrottlingException" if refused else "InternalServerError"
        status, kind = 400 if refused else 500, b"application/x-amz-json-1.0"
        body = orjson.dumps({"__type": name, "message": "a fault on demand"})
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
