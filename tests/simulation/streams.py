"""Streams as triggers, as Lambda reads them: shard by shard in order, a failed batch again from its first record.

A batch that comes again may have grown, or have shrunk; one that is done may come once more; and what was not read
within a day is lost. Each trigger has its own places in the shards.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from localcloud.filters import compile_patterns
from tests.simulation.functions import Functions
from tests.simulation.scene import Scene

MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
RETRY_SECONDS = (1.0, 2.0, 5.0, 20.0, 60.0)
POLL_SECONDS = 0.25


class Source(Protocol):
    """A shard that a trigger reads."""

    @property
    def name(self) -> str:
        """Unique among all."""

    def count(self) -> int:
        """How many records there ever were."""

    def trimmed(self, now: float) -> int:
        """How many of the first ones are forgotten."""

    def parent(self) -> "Source | None":
        """The shard that has to be read before."""

    def matched(self, number: int) -> Mapping[str, Any]:
        """A record as far as filters look at it."""

    def read(self, number: int) -> dict[str, Any]:
        """A record as it stands in the function's event."""

    def size(self, number: int) -> int:
        """About how many bytes that has."""

    def named(self, number: int) -> str:
        """How the function names a record that failed."""


@dataclass
class Place:
    """How far a trigger is in a shard, and how far its attempts went."""

    source: Source
    at: int = 0
    tried: int = 0
    failures: int = 0
    busy: bool = False
    planned: bool = False
    limit: int = 0  # of a batch that is halved until it passes


@dataclass
class StreamTrigger:
    """One event source mapping."""

    scene: Scene
    trigger: Mapping[str, Any]
    sources: Callable[[], Sequence[Source]]
    functions: Functions
    rnd: random.Random
    delivered: Callable[[str, Source, int, int], None] = lambda _function, _source, _first, _end: None
    lost: Callable[[str, Source, int], None] = lambda _function, _source, _number: None
    cut: Callable[[str, Source, int, int], None] = lambda _function, _source, _first, _end: None
    places: dict[str, Place] = field(default_factory=dict)
    resumes_at: float = 0.0  # until then it stands still

    def __post_init__(self) -> None:
        self.accepts = compile_patterns(self.trigger.get("patterns", []))
        self.function: str = self.trigger["function"]

    def wake(self) -> None:
        """Something may be there to read."""
        for source in self.sources():
            place = self.places.setdefault(source.name, Place(source))
            if not place.busy and not place.planned and place.at < source.count():
                window = self.trigger["window_seconds"] if not place.failures else 0
                self._plan(place, window + self.rnd.random() * POLL_SECONDS)

    def waiting(self) -> int:
        """How many records are not done with."""
        self.wake()
        return sum(place.source.count() - place.at for place in self.places.values())

    def _plan(self, place: Place, seconds: float) -> None:
        place.planned = True
        self.scene.scheduler.at(max(self.scene.scheduler.now + seconds, self.resumes_at), lambda: self._turn(place))

    def _plan_again(self, place: Place, seconds: float) -> None:
        """Guarantees rest on clocks that differ by less than what is between two attempts."""
        self._plan(place, seconds + 2 * self.scene.mix.skew_seconds)

    def _turn(self, place: Place) -> None:
        place.planned = False
        if self.scene.scheduler.now < self.resumes_at:
            self._plan(place, 0)
            return
        self._trim(place)
        if place.busy or place.at >= place.source.count() or not self._may_begin(place):
            return
        batch, end = self._batch(place)
        if not batch:
            self._advance(place, end)
            self.wake()
            return
        place.busy = True
        place.tried = max(place.tried, end)
        first = place.at
        event = {"Records": [place.source.read(number) for number in batch]}
        who = f"{self.function} {place.source.name[-4:]}[{first}:{end}]"
        self.functions.invoke(
            self.function, event, lambda result, error: self._ended(place, batch, end, result, error), who
        )
        if self.rnd.random() < self.scene.mix.overlap:
            self.scene.reached("a batch delivered again while it is under way")
            place.busy = False
            self._plan_again(place, self.rnd.random())

    def _trim(self, place: Place) -> None:
        trimmed = place.source.trimmed(self.scene.scheduler.now)
        while place.at < trimmed:
            self.lost(self.function, place.source, place.at)
            self.scene.reached("a record trimmed before it was read")
            place.at += 1

    def _may_begin(self, place: Place) -> bool:
        parent = place.source.parent()
        if parent is None:
            return True
        before = self.places.get(parent.name)
        return before is not None and before.at >= parent.count() and not before.busy

    def _batch(self, place: Place) -> tuple[list[int], int]:
        """The numbers of the records of a batch, and where it ends."""
        most, there = place.limit or self.trigger["batch_size"], place.source.count()
        if place.failures and place.tried > place.at:
            if self.rnd.random() < self.scene.mix.cut and place.tried > place.at + 1:
                self.scene.reached("a batch that comes again shorter")
                there = self.rnd.randint(place.at + 1, place.tried - 1)
                self.cut(self.function, place.source, place.at, place.tried)
            elif self.rnd.random() < 0.5:
                there = min(there, place.tried)
            elif there > place.tried:
                self.scene.reached("a batch that comes again longer")
        elif place.tried > place.at:  # the same again, while the first delivery goes on
            there = place.tried
        elif self.rnd.random() < self.scene.mix.small_batches:
            most = min(most, self.rnd.randint(1, 5))
        batch: list[int] = []
        size, number = 0, place.at
        while number < there and len(batch) < most:
            if self.accepts(place.source.matched(number)):
                size += place.source.size(number)
                if batch and size > MAX_PAYLOAD_BYTES:
                    break
                batch.append(number)
            number += 1
        return batch, number

    def _ended(self, place: Place, batch: list[int], end: int, result: Any, error: BaseException | None) -> None:
        if end <= place.at:
            return  # of a delivery that was given up, whose records another one has done
        place.busy = False
        failed = None if error else self._first_failed(place, batch, result)
        if error is None and failed is None and self.rnd.random() < self.scene.mix.again:
            self.scene.reached("a batch delivered again though it was done")
            place.failures += 1
            self._plan_again(place, self.rnd.random())
            return
        if error is None and failed is None:
            self.delivered(self.function, place.source, place.at, end)
            self._advance(place, end)
            self.wake()
            return
        if failed is not None:
            self._advance(place, failed)
        place.failures += 1
        if self.trigger["bisect"] and len(batch) > 1:
            self.scene.reached("a batch that was halved")
            place.limit = max(1, len(batch) // 2)
        self._plan_again(place, RETRY_SECONDS[min(place.failures, len(RETRY_SECONDS)) - 1] * (0.5 + self.rnd.random()))

    def _first_failed(self, place: Place, batch: list[int], result: Any) -> int | None:
        if not self.trigger["partial_results"] or not result or not result.get("batchItemFailures"):
            return None
        named = {failure.get("itemIdentifier") for failure in result["batchItemFailures"]}
        numbers = [number for number in batch if place.source.named(number) in named]
        return min(numbers) if len(numbers) == len(named) else place.at

    def _advance(self, place: Place, end: int) -> None:
        place.at, place.failures = end, 0
        if end >= place.tried:
            place.limit = 0
