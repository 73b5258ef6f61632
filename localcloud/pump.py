"""What the triggers have in common: a thread that polls a source, is woken by writes, and can be asked to end."""

import logging
import threading
import time
from collections.abc import Callable

from localcloud.wire import FunctionsApi

log = logging.getLogger("localcloud.triggers")

IDLE_SECONDS = 0.5  # between two looks at a source that nobody wakes
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024  # of an invocation; Lambda's limit
STUCK_SECONDS = 2.0
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)  # after failures; the last one stays


class Waker:
    """Wakes every pump when something was written, so that an idle cloud neither polls much nor answers late."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.written = 0

    def notify(self) -> None:
        """Something was written to some source."""
        with self._condition:
            self.written += 1
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Return when more was written than `seen`, or after `seconds`."""
        with self._condition:
            self._condition.wait_for(lambda: self.written != seen, seconds)


class Pump:
    """One polling thread; a subclass's `turn` looks once, and delivers what there is."""

    def __init__(self, name: str, functions: FunctionsApi, waker: Waker) -> None:
        self.name = name
        self.functions = functions
        self.waker = waker
        self.stopping = False
        self.hurried = False  # the cloud is to end: windows are cut short
        self.attempts = 0  # at what is being delivered, that failed
        self.busy = False  # something was taken from the source and is not delivered yet
        self.turns = 0
        self.deliveries = 0
        self._thread: threading.Thread | None = None

    def turn(self) -> bool:
        """Look once and deliver; whether there was anything."""
        raise NotImplementedError

    def start(self) -> "Pump":
        """Start polling."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the delivery in progress; `join` waits for that."""
        self.stopping = True
        self.waker.notify()

    def join(self, seconds: float) -> None:
        """Wait for the end, for a while."""
        if self._thread is not None:
            self._thread.join(seconds)

    def pause(self, seconds: float) -> None:
        """Sleep, unless asked to end."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _run(self) -> None:
        failures = 0
        while not self.stopping:
            seen = self.waker.written
            try:
                found = self.functions.wait_reachable(lambda: self.stopping) and self.turn()
                failures = 0
            except Exception:
                log.exception("the trigger %s failed and goes on", self.name)
                self.pause(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
                failures += 1
                continue
            self.turns += 1
            if not found and not self.stopping:
                self.waker.wait(seen, IDLE_SECONDS)


def drained(pumps: Callable[[], list[Pump]], seconds: float, give_up: Callable[[], bool]) -> bool:
    """Wait until no pump finds anything any more: each looked again, and none delivered.

    False when the time is over, or when for a while all that is left are batches that fail again and again.
    """
    until = time.monotonic() + seconds
    stuck_since = None
    while time.monotonic() < until and not give_up():
        watched = pumps()
        before = [(pump.turns, pump.deliveries) for pump in watched]
        for _ in range(2):  # a turn that began before the last write may not have seen it; the next one does
            if watched:
                watched[0].waker.notify()
            time.sleep(0.1)
        if all(
            pump.turns > turns + 1 and pump.deliveries == deliveries and not pump.busy
            for pump, (turns, deliveries) in zip(watched, before, strict=True)
        ):
            return True
        if any(pump.busy and not pump.attempts for pump in watched) or not any(pump.attempts for pump in watched):
            stuck_since = None
            continue
        stuck_since = stuck_since or time.monotonic()
        if time.monotonic() - stuck_since > STUCK_SECONDS:
            return False
    return False
