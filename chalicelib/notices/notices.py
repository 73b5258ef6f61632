"""What is told of numbers: anomalies, and alerts that fire or end. By its id, who is told twice knows it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

ANOMALY, ALERT, IMPORT = "anomaly", "alert", "import"
SOURCES = {ANOMALY: "tidemark.anomalies", ALERT: "tidemark.alerts", IMPORT: "tidemark.imports"}  # on the bus
CONTINUES_HOURS = 3  # so long after an anomaly of the same series and direction, another one is still the same matter
ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: a metric's count, one of its dimensions' values, or a percentile of one of its measures."""

    metric: str
    agg: str = "count"
    measure: str | None = None
    dimension: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One hour of one subject that is out of the ordinary; numbers as `alerts/scoring.py` found them."""

    project: str
    subject: Subject
    hour: str  # 2026-11-21T10
    kind: str  # spike, drop, silence, drift
    direction: str  # high, low
    observed: float
    expected: float
    score: float  # standard deviations
    method: str  # seasonal, plain
    since: str = ""  # the first hour of the matter that it goes on with; empty: it is the first

    @property
    def id(self) -> str:
        """Of what happened, not of the numbers, which may differ when the hour is judged again."""
        return _id(self.project, *self._series(), self.hour)

    @property
    def moment(self) -> tuple[str, str]:
        """When, and in which direction."""
        return self.hour, self.direction

    @property
    def told(self) -> bool:
        """Whether it is published: what only goes on is kept, and said no second time."""
        return not self.since

    def continued(self, earlier: Iterable["Anomaly"]) -> str:
        """Since when the same has been going on, by those of the CONTINUES_HOURS before; empty if it has not."""
        latest = max((e for e in earlier if e._series() == self._series()), key=lambda e: e.hour, default=None)
        return (latest.since or latest.hour) if latest else ""

    def to_json(self) -> dict[str, Any]:
        """As it is kept, answered and published."""
        return {
            "id": self.id,
            "project": self.project,
            **asdict(self.subject),
            "hour": self.hour,
            "kind": self.kind,
            "direction": self.direction,
            "observed": self.observed,
            "expected": self.expected,
            "score": self.score,
            "method": self.method,
            "since": self.since or self.hour,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Anomaly":
        """Return the inverse of `to_json`."""
        subject = Subject(**{name: document[name] for name in Subject.__slots__})
        since = "" if document["since"] == document["hour"] else document["since"]
        rest = {n: document[n] for n in ("project", "hour", "kind", "direction", "method")}
        numbers = {n: document[n] for n in ("observed", "expected", "score")}
        return cls(subject=subject, since=since, **rest, **numbers)

    def _series(self) -> tuple[str, ...]:
        s = self.subject
        return s.metric, s.agg, s.measure or "", s.dimension or "", s.value or "", self.direction


@dataclass(frozen=True, slots=True)
class Notice:
    """What is published. `kind` is ANOMALY, ALERT or IMPORT; `document` is JSON with at least `id` and `project`."""

    kind: str
    document: Mapping[str, Any]
    title: str  # one line for people

    @classmethod
    def of_anomaly(cls, anomaly: Anomaly) -> "Notice":
        subject = anomaly.subject
        what = subject.metric if subject.measure is None else f"{subject.agg} of {subject.metric}.{subject.measure}"
        where = f" of {subject.dimension} {subject.value}" if subject.dimension else ""
        title = (
            f"{anomaly.kind}: {what}{where} is {anomaly.observed:.6g} in {anomaly.hour}Z, "
            f"{anomaly.expected:.6g} was expected"
        )
        return cls(ANOMALY, anomaly.to_json(), title)


def _id(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:ID_DIGITS]
