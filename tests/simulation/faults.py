"""What goes wrong in a history, and how often: a mix of its own for each seed.

Some histories have one kind of fault and some all of them; some have a consumer that is hours behind, some nothing.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from tests.simulation.ports.quirks import Entry, Quirks

CALL_FAULTS = ("kill_before", "kill_after", "refuse", "lose_request", "lose_answer", "late")
LATE_READ = "a read that may show what was there before"
CALL_RATES = (0.0, 0.003, 0.01, 0.03)


@dataclass
class Mix:
    """How likely each fault is; a kind that is 0 does not happen. Rates of calls are per call."""

    kill_before: float = 0.0  # the process dies before the call has an effect
    kill_after: float = 0.0  # … and after it
    refuse: float = 0.0  # throttled, or an error of the service
    lose_request: float = 0.0  # the call times out, and has no effect
    lose_answer: float = 0.0  # it times out, and has its effect
    late: float = 0.0  # it times out, and has its effect later
    stall: float = 0.0  # the process stands still for a while
    slow: float = 1.0  # by how much all calls are slower
    late_seconds: float = 60.0
    cold: float = 0.1  # an invocation gets a new container
    skew_seconds: float = 0.0  # of containers' clocks
    lag_seconds: float = 0.2  # of indexes, mostly
    lag_far: float = 0.0  # how often it is minutes
    small_pages: float = 0.0
    undone: float = 0.0  # a batch is carried out in part
    shuffle: bool = False  # queues give out messages in any order
    again: float = 0.0  # a trigger delivers what is done
    overlap: float = 0.0  # a trigger delivers again while the first delivery goes on
    cut: float = 0.0  # a stream batch comes again shorter
    small_batches: float = 0.0
    behind: str = ""  # the function that reads its stream hours late
    behind_seconds: float = 0.0
    split: float = 0.0  # a shard of a stream splits, per hour
    twice: float = 0.0  # a schedule or notification fires twice
    tardy: float = 0.0  # … or minutes late
    lost_notice: float = 0.0  # a notification of S3 never comes, in spite of all
    ttl: float = 0.0  # how often per hour expired items are deleted; 0: never
    gone: float = 0.0  # a socket breaks, per frame
    hang: float = 0.0  # a socket takes nothing any more, per frame
    hash_bits: int = 63
    late_start: float = 0.0  # a task of a workflow begins late

    @property
    def calls(self) -> float:
        """How likely something happens to a call."""
        rates = (self.kill_before, self.kill_after, self.refuse, self.lose_request, self.lose_answer, self.late)
        return sum(rates)

    def leave_out(self, kinds: Iterable[str]) -> "Mix":
        """Without some kinds of faults from now on."""
        for kind in kinds:
            setattr(self, kind, getattr(CALM, kind))
        return self

    def kinds(self) -> list[str]:
        """The kinds of faults that it has."""
        return [each.name for each in fields(self) if getattr(self, each.name) != getattr(CALM, each.name)]


CALM = Mix()


def draw(rnd: random.Random) -> Mix:
    """The mix of a seed: each kind is in it or not."""
    some = rnd.choice((0.1, 0.35, 0.7))  # how many kinds

    def maybe(*values: Any, otherwise: Any = 0.0) -> Any:
        chosen = rnd.choice(values)
        return chosen if rnd.random() < some else otherwise

    consumer = maybe("aggregate", "archive", "live", otherwise="")
    return Mix(
        kill_before=maybe(*CALL_RATES),
        kill_after=maybe(*CALL_RATES),
        refuse=maybe(*CALL_RATES, 0.1),
        lose_request=maybe(*CALL_RATES),
        lose_answer=maybe(*CALL_RATES),
        late=maybe(*CALL_RATES),
        stall=maybe(0.002, 0.01),
        slow=maybe(1.0, 5.0, 20.0, otherwise=1.0),
        late_seconds=rnd.choice((10.0, 60.0, 600.0)),
        cold=rnd.choice((0.05, 0.3, 0.8)),
        skew_seconds=maybe(0.5, 5.0, 60.0),
        lag_seconds=rnd.choice((0.05, 0.5, 5.0)),
        lag_far=maybe(0.02, 0.1),
        small_pages=maybe(0.3, 1.0),
        undone=maybe(0.05, 0.3),
        shuffle=rnd.random() < 0.5,
        again=maybe(0.05, 0.2),
        overlap=maybe(0.02, 0.1),
        cut=maybe(0.1, 0.3),
        small_batches=maybe(0.3, 1.0),
        behind=consumer,
        behind_seconds=_behind(rnd) if consumer else 0.0,
        split=maybe(0.3, 1.0),
        twice=maybe(0.05, 0.3),
        tardy=maybe(0.05, 0.3),
        lost_notice=maybe(0.05, 0.3),
        ttl=maybe(0.2, 1.0),
        gone=maybe(0.02, 0.1),
        hang=maybe(0.02),
        hash_bits=maybe(4, 16, otherwise=63),
        late_start=maybe(0.1, 0.3),
    )


def _behind(rnd: random.Random) -> float:
    """How far a consumer may be behind: mostly some hours. Now and then the stream forgets what it has not read."""
    return 27 * 3600.0 if rnd.random() < 0.03 else rnd.choice((300.0, 3600.0, 7200.0, 4 * 3600.0))


@dataclass
class SeededQuirks(Quirks):
    """What services seldom do, by the seed; `mix` changes when the history comes to rest."""

    rnd: random.Random
    mix: Mix
    reached: Any = field(default=lambda _what: None)

    def page(self, most: int) -> int:
        if most > 1 and self.rnd.random() < self.mix.small_pages:
            self.reached("a page that ends early")
            return self.rnd.randint(1, min(most, 4))
        return most

    def lag_seconds(self) -> float:
        lag = self.rnd.random() * self.mix.lag_seconds
        if self.rnd.random() < self.mix.lag_far:
            self.reached("an index that is minutes behind")
            return lag + self.rnd.random() * 300
        return lag

    def late_read(self) -> None:
        self.reached(LATE_READ)

    def left_undone(self, count: int) -> int:
        if self.rnd.random() < self.mix.undone:
            self.reached("a batch carried out in part")
            return self.rnd.randint(1, count)
        return 0

    def shuffled(self, entries: list[Entry]) -> list[Entry]:
        if self.mix.shuffle:
            self.rnd.shuffle(entries)
        return entries
