"""What is measured while a soak goes on: memory of each process, the queue, what is acknowledged and what is shown."""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from localcloud.places import Places, Running
from localcloud.wire import ApiError, CloudApi, Unreachable

EVERY_SECONDS = 2.0
FLAT_MB_PER_HOUR = 60.0  # a process that grows by less is flat …
# … and so is one whose trend is less over all that was watched: what a process takes until it has done everything once.
FLAT_MB = 64.0
LEAST_SECONDS = 60.0  # of one life of a process, or nothing can be said
MOST_POINTS = 300  # of a life; their pairs are compared
QUEUE = "tidemark-dev-events"


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment, in seconds since the start."""

    at: float
    acknowledged: int
    shown: int  # by a dashboard
    queued: int  # messages that wait or are being processed
    dead: int  # messages that failed too often
    memory_mb: Mapping[str, float]  # by process
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trend:
    """How the memory of a process went, in the second half of the run."""

    process: str
    mb_per_hour: float
    seconds: float
    last_mb: float

    @property
    def is_flat(self) -> bool:
        """Whether it grows by less than the bounds; what was not watched for long enough is."""
        rise_mb = self.mb_per_hour * self.seconds / 3600
        return self.seconds < LEAST_SECONDS or self.mb_per_hour <= FLAT_MB_PER_HOUR or rise_mb <= FLAT_MB


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points (Theil and Sen): spikes and steps hardly move it."""
    few = points[:: max(1, len(points) // MOST_POINTS)]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(few, 2) if t > s]
    return statistics.median(slopes) if slopes else 0.0


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """One for each process: of its last life, as far as that lies in the second half."""
    if not samples:
        return []
    middle, last = samples[-1].at / 2, samples[-1]
    found = []
    for process, pid in sorted(last.pids.items()):
        life = [
            (sample.at, sample.memory_mb[process])
            for sample in samples
            if sample.at >= middle and sample.pids.get(process) == pid and process in sample.memory_mb
        ]
        if life:
            found.append(Trend(process, slope(life) * 3600, life[-1][0] - life[0][0], life[-1][1]))
    return found


def lag_seconds(samples: Sequence[Sample]) -> list[float]:
    """For each sample, how long ago as many events were acknowledged as are shown by then."""
    lags, reached = [], 0
    for sample in samples:
        while reached < len(samples) - 1 and samples[reached].acknowledged < sample.shown:
            reached += 1
        behind = sample.acknowledged > sample.shown
        lags.append(max(0.0, sample.at - samples[reached].at) if behind else 0.0)
    return lags


def memory_mb(pids: Iterable[int]) -> dict[int, float]:
    """The resident memory of processes that are there."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=False
    )
    return {int(pid): int(kib) / 1024 for pid, kib in (line.split() for line in listed.stdout.splitlines())}


@dataclass
class Sampler:
    """Looks every few seconds, in a thread of its own."""

    places: Places
    cloud: CloudApi
    acknowledged: Callable[[], int]
    shown: Callable[[], int]
    own_pid: int
    samples: list[Sample] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        """Begin."""
        thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        thread.start()
        return thread

    def queue(self, suffix: str = "") -> int:
        """How many messages are in a queue, those that are being processed included."""
        url = self.cloud.sqs("GetQueueUrl", QueueName=QUEUE + suffix)["QueueUrl"]
        attributes = self.cloud.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(attributes[name]) for name in names)

    def sample(self) -> Sample | None:
        """One look; None while the cloud does not answer."""
        running = Running.read(self.places)
        if running is None:
            return None
        pids = {"supervisor": running.pid, "soak": self.own_pid, **running.children}
        memory = memory_mb(pids.values())
        try:
            queued, dead = self.queue(), self.queue("-dlq")
        except (ApiError, Unreachable, OSError):
            return None
        return Sample(
            time.monotonic() - self.began,
            self.acknowledged(),
            self.shown(),
            queued,
            dead,
            {name: memory[pid] for name, pid in pids.items() if pid in memory},
            pids,
        )

    def _run(self) -> None:
        while not self.stopping.wait(EVERY_SECONDS):
            sample = self.sample()
            if sample is not None:
                self.samples.append(sample)
