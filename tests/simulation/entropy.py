"""Puts all that differs from run to run under the seed: clocks, sleeping, random names, hashes, threads.

Installed before the app is imported, because its stages take `time.time` and the like as defaults of their fields.
Where no history is being played, everything is as it was.
"""

import concurrent.futures
import os
import random
import secrets
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from zlib import crc32

HASH_SEED = "0"  # of the process: the order of sets follows from it
Result = TypeVar("Result")
_real = {name: getattr(time, name) for name in ("time", "monotonic", "sleep", "time_ns", "perf_counter")}


class Now(Protocol):
    """The history that is being played."""

    names: random.Random  # where ids and tokens come from
    chance: str  # what the process's own dice begin with

    @property
    def hash_bits(self) -> int:
        """How many bits the app's own hashes of texts have; of few, they meet."""

    def time(self) -> float:
        """The clock of the container that asks, in Unix seconds."""

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""


_now: Now | None = None


@contextmanager
def played(now: Now) -> Iterator[None]:
    """Take all entropy from this history."""
    global _now
    _now = now
    random.seed(now.chance)  # pauses before another try
    try:
        yield
    finally:
        _now = None


def fix_hashes() -> None:
    """Start this process anew unless the order of its sets is the same each time."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": HASH_SEED},
        )


def install() -> None:
    """Replace the process's sources of entropy."""
    assert not any(name.startswith("chalicelib") for name in sys.modules), "the app was imported before"
    time.time = _time
    time.monotonic = _time
    time.time_ns = lambda: int(_time() * 1e9)
    time.sleep = _sleep  # type: ignore[assignment]
    secrets.token_hex = lambda nbytes=None: _names().randbytes(nbytes or 32).hex()
    secrets.token_bytes = lambda nbytes=None: _names().randbytes(nbytes or 32)
    secrets.token_urlsafe = lambda nbytes=None: urlsafe_b64encode(_names().randbytes(nbytes or 32)).decode().rstrip("=")
    secrets.randbits = lambda k: _names().getrandbits(k)
    uuid.uuid4 = lambda: uuid.UUID(int=_names().getrandbits(128), version=4)
    concurrent.futures.ThreadPoolExecutor = InlineExecutor  # type: ignore[assignment, misc]


def hash_of_text(text: str) -> int:
    """In place of Python's own keyed hash, for modules that keep what it says; of as many bits as the history has."""
    spread = crc32(text.encode()) * 0x9E3779B97F4A7C15 % (1 << 63)
    return spread >> (63 - _now.hash_bits) if _now else spread


class InlineExecutor(concurrent.futures.Executor):
    """Does each piece of work in the thread that asks for it, when it asks."""

    def __init__(self, max_workers: int | None = None, *_: Any, **__: Any) -> None:
        self.max_workers = max_workers

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Result]":
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future

    def map(self, fn: Callable[..., Result], *iterables: Iterable[Any], **_: Any) -> Iterator[Result]:
        futures = [self.submit(fn, *each) for each in zip(*iterables, strict=False)]
        return (future.result() for future in futures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None


def _time() -> float:
    return _now.time() if _now else float(_real["time"]())


def _sleep(seconds: float) -> None:
    if _now:
        _now.sleep(seconds)
    else:
        _real["sleep"](seconds)


def _names() -> random.Random:
    return _now.names if _now else random.SystemRandom()
