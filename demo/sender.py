"""Sends batches at their times, each until it is acknowledged, always with the same bytes."""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from demo.client import Answer, Client, DemoError
from demo.traffic import Batch

THREADS = 8
PATIENCE_SECONDS = 120.0  # how long one batch is tried; the stack may restart in between
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 10.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class Outcome:
    """What became of the run's batches so far."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # event id -> type
    duplicates: int = 0  # events in batches that were sent once more on purpose
    retries: int = 0
    rejected: dict[str, str] = field(default_factory=dict)  # event id -> reason
    failures: list[str] = field(default_factory=list)  # one for each batch that was given up


class Sender:
    """Sends with a few threads; `progress` is told of every change, from any of them, one at a time."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        threads: int = THREADS,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
        progress: Callable[[Outcome, int], object] = lambda _outcome, _events: None,
    ) -> None:
        self.url, self.key, self.threads = url, key, threads
        self.patience_seconds, self.clock, self.wait, self.progress = patience_seconds, clock, wait, progress
        self.outcome = Outcome()
        self.lock = threading.Lock()
        self.stopped_by: Exception | None = None  # a wrong key, or what a thread did not expect
        self.jitter = Random()

    def send(self, batches: Iterable[Batch]) -> Outcome:
        """Send all of them and return when each is acknowledged or given up; raises DemoError when the key is wrong.

        Whatever else a thread raises ends the others and is raised here.
        """
        waiting: queue.Queue[Batch | None] = queue.Queue(maxsize=self.threads * 4)
        workers = [threading.Thread(target=self._work, args=(waiting,), daemon=True) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        began = self.clock()
        for batch in batches:
            if self.stopped_by:
                break
            if (early_seconds := began + batch.at_seconds - self.clock()) > 0:
                self.wait(early_seconds)
            waiting.put(batch)
        for _ in workers:
            waiting.put(None)
        for worker in workers:
            worker.join()
        if self.stopped_by:
            raise self.stopped_by
        return self.outcome

    def _work(self, waiting: "queue.Queue[Batch | None]") -> None:
        client = Client(self.url)
        while (batch := waiting.get()) is not None:
            if self.stopped_by:
                continue  # to the end of what waits, or `send` could wait for room
            try:
                self._deliver(client, batch)
            except Exception as error:  # noqa: BLE001 raised by `send`
                self.stopped_by = error
        client.close()

    def post(self, client: Client, batch: Batch) -> Answer:
        """Return one attempt; raises OSError or http.client.HTTPException when there is no whole answer."""
        return client.request("POST", "/events", key=self.key, body=batch.body)

    def _deliver(self, client: Client, batch: Batch) -> None:
        give_up_at = self.clock() + self.patience_seconds
        wait_seconds = FIRST_WAIT_SECONDS
        while True:
            asked_seconds = None
            try:
                answer = self.post(client, batch)
            except (OSError, http.client.HTTPException) as error:
                problem = f"no answer ({error!r})"
            else:
                if answer.status not in RETRIED:
                    self._take_answer(batch, answer)
                    return
                problem = f"status {answer.status}"
                asked_seconds = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
            pause = wait_seconds * self.jitter.uniform(0.5, 1) if asked_seconds is None else asked_seconds
            if self.clock() + pause > give_up_at:
                self._give_up(batch, f"{problem} for {self.patience_seconds:g} s")
                return
            with self.lock:
                self.outcome.retries += 1
                self.progress(self.outcome, 0)
            self.wait(pause)
            wait_seconds = min(wait_seconds * 2, LONGEST_WAIT_SECONDS)

    def _take_answer(self, batch: Batch, answer: Answer) -> None:
        if answer.status in (401, 403):
            self.stopped_by = DemoError(
                f"the stack refuses the write key ({answer.status}: {_message(answer)}); "
                "name a key with the scope write: --key"
            )
            return
        rejected = _rejected(answer)
        if rejected is None:
            self._give_up(batch, f"status {answer.status}: {_message(answer)}")
            return
        with self.lock:
            self.progress(self.outcome, self.take(batch, rejected))

    def take(self, batch: Batch, rejected: dict[str, str]) -> int:
        """Note what was acknowledged, and return how many events of it are new; called by one thread at a time."""
        taken = {event_id: kind for event_id, kind in batch.event_types.items() if event_id not in rejected}
        before = len(self.outcome.acknowledged)
        self.outcome.acknowledged |= taken
        self.outcome.rejected |= rejected
        self.outcome.duplicates += len(taken) if batch.duplicate else 0
        return len(self.outcome.acknowledged) - before

    def _give_up(self, batch: Batch, reason: str) -> None:
        with self.lock:
            self.outcome.failures.append(f"{len(batch.event_types)} events: {reason}")
            self.progress(self.outcome, 0)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Return the pause that a Retry-After header asks for: seconds, or until an HTTP date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _rejected(answer: Answer) -> dict[str, str] | None:
    """Return the refused events of an answer of the collector's, by id; None when it is no such answer."""
    if answer.status not in (200, 202, 400):
        return None
    try:
        document = json.loads(answer.body)
        return {row["event_id"]: f"{row['code']}: {row['message']}" for row in document["rejected"]}
    except (ValueError, KeyError, TypeError):
        return None


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.body[:200].decode(errors="replace")
