"""Sends deliveries until each is acknowledged, and adds up what was, hour by hour."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from demo.client import Answer, Client
from demo.sender import Outcome, Sender
from demo.traffic import Batch
from tests.soak.traffic import NUMBER, Cell, Delivery, utc_now_ms

PATIENCE_SECONDS = 3600.0  # what was given up might be there or not, and nothing could be compared
MOST_QUEUED, HOLD_SECONDS = 2000, 0.25


@dataclass
class Sent:
    """What was acknowledged; event ids are added up as numbers, so that one for another is noticed."""

    events: Counter[Cell] = field(default_factory=Counter)
    numbers: Counter[Cell] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)  # by project: stored once more, in another group
    refused: Counter[str] = field(default_factory=Counter)  # by project: at least so many are quarantined
    unexpected: Counter[str] = field(default_factory=Counter)  # reasons of refusals that should not be
    requests: int = 0

    @property
    def total(self) -> int:
        """Events that were acknowledged, each once."""
        return self.events.total()


class SoakSender(Sender):
    """The demo's, with deliveries' own routes and keys; it waits while more is `queued` than the machine gets done.

    `file` is told each event that was acknowledged.
    """

    def __init__(
        self,
        url: str,
        *,
        threads: int,
        file: Path,
        queued: Callable[[], int] = lambda: 0,
        progress: Callable[[Outcome, int], object] = lambda _outcome, _events: None,
    ) -> None:
        super().__init__(url, "", threads=threads, patience_seconds=PATIENCE_SECONDS, progress=progress)
        self.sent, self.queued, self.held_seconds = Sent(), queued, 0.0
        self.stopping = threading.Event()
        self._file: TextIO = file.open("w")

    def run(self, deliveries: Iterable[Delivery]) -> Sent:
        """Send them all, or as many as there are before `stopping` is set; return once all are acknowledged."""

        def until_stopped() -> Iterator[Delivery]:
            for delivery in deliveries:
                while self.queued() > MOST_QUEUED and not self.stopping.wait(HOLD_SECONDS):
                    self.held_seconds += HOLD_SECONDS
                if self.stopping.is_set():
                    return
                yield delivery

        try:
            self.send(until_stopped())
        finally:
            self._file.close()
        return self.sent

    def post(self, client: Client, batch: Batch) -> Answer:
        """One attempt, which says when it is made."""
        assert isinstance(batch, Delivery)
        route = "/v1/batch" if batch.by_sdk else "/events"
        return client.request("POST", route, key=f"{batch.project}-write", body=batch.written(utc_now_ms()))

    def take(self, batch: Batch, rejected: dict[str, str]) -> int:
        """Add up what was acknowledged for the first time."""
        assert isinstance(batch, Delivery)
        sent = self.sent
        sent.requests += 1
        sent.refused[batch.project] += batch.refused
        for event_id in rejected.keys() & batch.cells.keys():
            sent.unexpected[rejected[event_id]] += 1
        sent.copies[batch.project] += batch.copies
        if batch.duplicate:
            self.outcome.duplicates += len(batch.cells)
            return 0
        for event_id, cell in batch.cells.items():
            if event_id not in rejected:
                sent.events[cell] += 1
                sent.numbers[cell] += int(event_id[NUMBER])
                self._file.write(f"{event_id} {' '.join(cell)}\n")
        return len(batch.cells)
