"""A dashboard without a page: the client's rule of docs/api.md, in as few words as it can be said."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chalicelib.live.frames import delta_parts, frames_of

Frame = dict[str, Any]
Numbers = Counter[tuple[str, str]]  # (metric, minute), and (metric, "") for its count


@dataclass
class Book:
    """What came of one subscription."""

    snapshot: dict[int, Frame] = field(default_factory=dict)  # by part
    pushed: dict[str, Numbers] = field(default_factory=dict)  # by id
    halves: dict[str, list[Frame]] = field(default_factory=dict)  # by id, the parts so far
    resync: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the whole snapshot has come."""
        return bool(self.snapshot) and len(self.snapshot) == next(iter(self.snapshot.values()))["parts"]

    def numbers(self) -> Numbers:
        """Totals, and the latest of each delta that they do not hold."""
        frames = [self.snapshot[part] for part in sorted(self.snapshot)]
        total: Numbers = Counter()
        for frame in frames:
            total.update(numbers_of(frame["totals"]))
        deltas: dict[str, Numbers] = {}
        halves: dict[str, list[Frame]] = {}
        for delta in (delta for frame in frames for delta in frame["deltas"]):
            take_part(delta, halves, deltas)
        absorbed = {name for frame in frames for name in frame["absorbed"]}
        for name, numbers in (deltas | self.pushed).items():  # what was pushed is no older than the snapshot
            if name not in absorbed:
                total.update(numbers)
        return total


@dataclass
class Dashboard:
    """Takes frames; shows the last whole subscription."""

    subscription: int = 0
    book: Book = field(default_factory=Book)
    shown: Book | None = None

    def take(self, frame: Frame) -> None:
        """Apply a frame."""
        if "subscription" not in frame or frame["subscription"] < self.subscription:
            return
        if frame["subscription"] > self.subscription:
            self.subscription, self.book = frame["subscription"], Book()
        if frame["type"] == "resync":
            self.book.resync = True
        elif frame["type"] == "snapshot":
            self.book.snapshot[frame["part"]] = frame
        elif frame["type"] == "delta":
            for delta in frame["deltas"]:
                take_part(delta, self.book.halves, self.book.pushed)
        if self.book.is_ready:
            self.shown = self.book

    def numbers(self) -> Numbers:
        """What is shown, without what is 0."""
        return Counter({key: n for key, n in self.shown.numbers().items() if n}) if self.shown else Counter()

    def counts(self) -> dict[str, int]:
        """By metric."""
        return {metric: n for (metric, minute), n in self.numbers().items() if not minute}

    @property
    def total(self) -> int:
        """Of all metrics."""
        return sum(self.counts().values())


def shown(frames: list[Frame]) -> Dashboard:
    """The dashboard after these frames."""
    dashboard = Dashboard()
    for frame in frames:
        dashboard.take(frame)
    return dashboard


def take_part(delta: Frame, halves: dict[str, list[Frame]], deltas: dict[str, Numbers]) -> None:
    """Keep a part; with the last one, the delta replaces what its id brought before."""
    name = delta["id"]
    before = halves.get(name, []) if delta["part"] > 1 else []
    if len(before) != delta["part"] - 1:
        return  # the part has come twice
    halves[name] = [*before, delta]
    if delta["part"] == delta["parts"]:
        numbers: Numbers = Counter()
        for part in halves.pop(name):
            numbers.update(numbers_of(part["metrics"]))
        deltas[name] = numbers


def numbers_of(metrics: dict[str, Any]) -> Numbers:
    """Counts and minutes of metrics."""
    numbers: Numbers = Counter()
    for name, metric in metrics.items():
        numbers[name, ""] += metric["count"]
        for minute, count in metric["minutes"].items():
            numbers[name, minute] += count
    return numbers


def delta_frames(deltas: Iterable[Frame], subscription: int = 1) -> list[bytes]:
    """Deltas as the server's frames, for one that has subscribed."""
    return list(frames_of((part for delta in deltas for part in delta_parts(delta)), subscription))
