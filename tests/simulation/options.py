"""What a history is made of, drawn by its seed; and what was taken away from it while it was being shrunk."""

import random
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tests.simulation import limits
from tests.simulation.faults import Mix
from tests.simulation.faults import draw as draw_mix

# When histories begin: in the middle of a day, before a day's, a month's and a year's end, before a summer time.
STARTS = (
    datetime(2026, 11, 20, 9, tzinfo=UTC),
    datetime(2026, 11, 20, 22, tzinfo=UTC),
    datetime(2026, 11, 30, 22, tzinfo=UTC),
    datetime(2026, 12, 31, 22, tzinfo=UTC),
    datetime(2027, 3, 27, 23, tzinfo=UTC),
)
# What is special about the events: mostly nothing. Each of the others takes longer.
SHARES = {"plain": 260, "hot user": 8, "deep": 4, "wide": 4, "many values": 2, "many types": 1, "hostile": 1}
SHAPES = tuple(shape for shape, share in SHARES.items() for _ in range(share))

# What events are: `page_view` the most often. A type costs every hour, every day and every look its items.
KINDS = ("page_view", "purchase", "level_up", "Song Played", "identify")
NARROW = 0.93  # of histories have contracts of a few dimensions
SPREAD = 0.35  # of histories have events that are late, ahead, or at the edge of an hour
RECONCILED = 0.007  # … have yesterday's hours reconciled, which takes long


@dataclass(frozen=True)
class Options:
    """Everything follows from these."""

    seed: int
    start: str = ""
    hours: float = 2.0  # in which requests are sent
    kinds: tuple[str, ...] = ()  # of events; none: every kind that there is
    neighbour: bool = True  # whether another project sends as well
    narrow: bool = False  # contracts with a few dimensions only
    spreads: bool = True  # whether some events are late, ahead, or at the edge of an hour
    requests: int = 12
    shape: str = "plain"
    buffer: str = "sqs"
    readers: int = 6
    sockets: int = 1
    erasures: int = 0
    imports: int = 0
    shards: int = 1  # of each table's stream
    reconciles: bool = False  # yesterday's hours, which takes long
    bus: int = 0  # events of the account's bus
    sdks: float = 0.0  # how many of the requests are an SDK's
    poison: int = 0  # chunks that nobody can read
    thin: int = 2  # of the schedules of every minute one of so many is fired
    bounds: dict[str, int] = field(default_factory=dict)  # of the app, made small
    faults: dict[str, Any] = field(default_factory=dict)  # none: the mix that the seed draws
    # While shrinking:
    without: tuple[str, ...] = ()  # kinds of faults
    dropped: tuple[int, ...] = ()  # requests, by number
    faults_until: int | None = None  # how many calls something may happen to

    @property
    def started_at(self) -> float:
        """In Unix seconds."""
        return datetime.fromisoformat(self.start).timestamp()

    def random(self, what: str) -> random.Random:
        """Choices about one thing: leaving out another one does not change them."""
        return random.Random(f"{self.seed} {what}")

    def mix(self) -> Mix:
        """What goes wrong, and how often."""
        mix = Mix(**self.faults) if self.faults else draw_mix(self.random("mix"))
        return mix.leave_out(self.without)

    def to_json(self) -> dict[str, Any]:
        """Only what differs from what the seed draws."""
        drawn = asdict(draw(self.seed))
        return {name: value for name, value in asdict(self).items() if name == "seed" or value != drawn[name]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Options":
        """The inverse of `to_json`."""
        words: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in document.items()}
        return replace(draw(document["seed"]), **words)


def draw(seed: int) -> Options:
    """What the seed says."""
    rnd = random.Random(f"{seed} options")
    start, shape = rnd.choice(STARTS), rnd.choice(SHAPES)
    return Options(
        seed,
        start=start.replace(minute=rnd.randrange(60), second=rnd.randrange(60)).isoformat(),
        hours=rnd.choice((0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.5, 0.5, 2.0)),
        kinds=_kinds(random.Random(f"{seed} kinds")) if shape == "plain" else KINDS,
        neighbour=rnd.random() < 0.5,
        narrow=rnd.random() < NARROW,
        spreads=rnd.random() < SPREAD,
        requests=rnd.choice((1, 2, 2, 2, 3, 3, 5, 8, 12)),
        shape=shape,
        buffer=rnd.choice(("sqs", "sqs", "sqs", "kinesis")),
        readers=rnd.choice((1, 1, 2, 5)),
        sockets=rnd.choice((0, 0, 1, 1, 2)),
        erasures=rnd.choice((0, 0, 0, 0, 0, 0, 0, 1)),
        imports=rnd.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 1)),
        shards=rnd.choice((1, 1, 2, 4)),
        reconciles=rnd.random() < RECONCILED,
        thin=rnd.choice((1, 3, 5)),
        bounds=limits.draw(random.Random(f"{seed} limits")),
        bus=rnd.choice((0, 0, 0, 2)),
        sdks=rnd.choice((0.0, 0.5)),
        poison=rnd.choice((0, 0, 0, 0, 0, 1)),
    )


def _kinds(rnd: random.Random) -> tuple[str, ...]:
    """Of most histories a few kinds of events, of some all."""
    if rnd.random() < 0.1:
        return KINDS
    return tuple(rnd.sample(KINDS, rnd.choice((1, 1, 2, 2, 3))))
