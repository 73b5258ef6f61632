"""Every hour: which metrics, and which values of their dimensions, are out of the ordinary; and everybody is told.

An anomaly is recorded, published, and then marked. Recording is a conditional put under an id that names what
happened, so however often an hour is judged, it is there once. A run that dies before it has marked an anomaly has the
next one publish it, perhaps again, under the same id.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chalicelib.alerts.anomalies_table import AnomaliesTable
from chalicelib.alerts.scoring import DEFAULT, HISTORY_HOURS, SILENCE, WEEK, Finding, find
from chalicelib.base.time_windows import HOUR_MS, hour_of, hour_start_ms
from chalicelib.events.contracts import Contracts
from chalicelib.live.connection import Connection
from chalicelib.live.connections_table import ConnectionsTable
from chalicelib.live.frames import EVERYTHING, anomaly_frame
from chalicelib.live.sockets import Gone, Sockets
from chalicelib.notices.notices import CONTINUES_HOURS, Anomaly, Notice, Subject
from chalicelib.notices.publisher import Notices
from chalicelib.rollups.rollups import OTHER

COUNTED_MS = 5 * 60_000  # after its end an hour's last events have been counted
JUDGED_HOURS = 3  # of each run: a run that failed is made up for, and late events are looked at
TOLD_HOURS = 24  # what was not published within this time is no news
SHOW_SECONDS = 5.0  # for all dashboards of a project, of an anomaly
TOP_VALUES = 20  # of a dimension; by the events of the last two weeks
TOP_WEEKS = 2
LATENCY = "p95"

Series = Mapping[str, NDArray[np.float64]]

log = logging.getLogger(__name__)


class History(Protocol):
    """Where the hours come from."""

    def event_types(self, project: str) -> list[str]:
        """Return every event type of a project."""

    def hourly(
        self,
        project: str,
        metric: str,
        start_ms: int,
        end_ms: int,
        *,
        agg: str = "count",
        measure: str | None = None,
        group_by: str | None = None,
    ) -> Series:
        """Return one number for each whole hour of the half-open range, NaN where it is not known.

        By the values of the dimension `group_by`, or under "". A count of no events is 0, a percentile of none NaN.
        """


@dataclass(frozen=True, slots=True)
class Detector:
    """Judges every project's last hours."""

    projects: Callable[[], list[str]]
    history: History
    contracts: Contracts
    anomalies: AnomaliesTable
    notices: Notices
    connections: ConnectionsTable
    sockets: Sockets

    def detect(self, now_ms: int) -> int:
        """Judge the hours whose events have been counted; returns how many anomalies are new.

        Raises an ExceptionGroup, after all the others are done, when a project could not be judged.
        """
        return self._each(lambda project: self.judge(project, now_ms), "judged")

    def tell(self, now_ms: int) -> int:
        """Publish what is recorded and not marked; returns how many anomalies that were.

        Raises an ExceptionGroup, after all the others are done, when nobody could be told of a project.
        """
        return self._each(lambda project: self._publish(project, now_ms), "told of")

    def _each(self, work: Callable[[str], int], what: str) -> int:
        total = 0
        failures: list[Exception] = []
        for project in self.projects():
            try:
                total += work(project)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from their turn
                log.warning("project not %s", what, extra={"project": project, "reason": repr(error)})
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"{len(failures)} projects were not {what}", failures)
        return total

    def judge(self, project: str, now_ms: int) -> int:
        """Record the anomalies of the last hours; returns how many are new."""
        end_ms = (now_ms - COUNTED_MS) // HOUR_MS * HOUR_MS
        start_ms = end_ms - (HISTORY_HOURS + JUDGED_HOURS) * HOUR_MS
        found = self._anomalies(project, start_ms, end_ms)
        new = 0
        for hour, anomalies in groupby(sorted(found, key=_hour), key=_hour):  # in order: each goes on with those before
            hour_ms = hour_start_ms(hour)
            first, last = hour_of(hour_ms - CONTINUES_HOURS * HOUR_MS), hour_of(hour_ms - HOUR_MS)
            earlier = [anomaly for anomaly, _ in self.anomalies.between(project, first, last)]
            for anomaly in anomalies:
                new += self.anomalies.put(replace(anomaly, since=anomaly.continued(earlier)), now_ms // 1000)
        return new

    def _publish(self, project: str, now_ms: int) -> int:
        """Tell of what is recorded and not marked."""
        recent = self.anomalies.between(project, hour_of(now_ms - TOLD_HOURS * HOUR_MS), hour_of(now_ms))
        untold = [anomaly for anomaly, published in recent if anomaly.told and not published]
        connections = [c for c in self.connections.of_project(project) if c.topics] if untold else []
        for anomaly in untold:
            self.notices.publish(Notice.of_anomaly(anomaly))
            self._show(anomaly, connections)
            self.anomalies.mark_published(anomaly, now_ms // 1000)
            subject = anomaly.subject
            place = {"metric": subject.metric, "agg": subject.agg, "dimension": subject.dimension}
            log.info(
                "anomaly published", extra={"project": project, "anomaly_id": anomaly.id, "kind": anomaly.kind, **place}
            )
        return len(untold)

    def _show(self, anomaly: Anomaly, connections: list[Connection]) -> None:
        """Push it to the dashboards; one that misses it reads `GET /anomalies` when it connects again."""
        frame = anomaly_frame(anomaly)
        metric = anomaly.subject.metric
        wanted = {EVERYTHING, metric, self.contracts.type_of(metric) or metric}
        shares = [(connection, [frame]) for connection in connections if wanted & set(connection.topics)]
        for (connection, _), outcome in zip(shares, self.sockets.push_all(shares, SHOW_SECONDS), strict=True):
            if isinstance(outcome, int):
                continue
            connections.remove(connection)  # no other anomaly waits for it
            if isinstance(outcome, Gone):
                self.connections.forget(connection.id, connection.project)
            else:
                log.warning("anomaly not pushed", extra={"connection_id": connection.id, "reason": str(outcome)})

    def _anomalies(self, project: str, start_ms: int, end_ms: int) -> Iterator[Anomaly]:
        """Of all that is judged; what the whole explains is left out of its parts: one notice, not twenty."""
        types = {
            event_type: self.history.hourly(project, self.contracts.metric_of(event_type), start_ms, end_ms)[""]
            for event_type in self.history.event_types(project)
            if event_type != OTHER
        }
        counts = {name: hours for name, hours in types.items() if np.nansum(hours) >= DEFAULT.minimum_support}
        explained: set[tuple[str, str]] = set()
        if len(counts) > 1:  # a project that falls silent altogether
            together = np.stack(list(counts.values()))
            total = np.where(np.isnan(together).all(axis=0), np.nan, np.nansum(together, axis=0))
            silent = [a for a in _judged(project, {Subject(EVERYTHING): total}, start_ms) if a.kind == SILENCE]
            yield from silent
            explained = {anomaly.moment for anomaly in silent}
        for event_type, hours in counts.items():
            yield from self._of_type(project, event_type, hours, explained, start_ms, end_ms)

    def _of_type(
        self,
        project: str,
        event_type: str,
        counts: NDArray[np.float64],
        explained: set[tuple[str, str]],
        start_ms: int,
        end_ms: int,
    ) -> Iterator[Anomaly]:
        metric, spec = self.contracts.metric_of(event_type), self.contracts.spec(event_type)
        whole = [a for a in _judged(project, {Subject(metric): counts}, start_ms) if a.moment not in explained]
        yield from whole
        explained = explained | {anomaly.moment for anomaly in whole}
        for dimension in spec.dimensions:
            values = _top(self.history.hourly(project, metric, start_ms, end_ms, group_by=dimension))
            series = {Subject(metric, dimension=dimension, value=value): hours for value, hours in values.items()}
            yield from (a for a in _judged(project, series, start_ms) if a.moment not in explained)
        for measure in spec.measures:
            hours = self.history.hourly(project, metric, start_ms, end_ms, agg=LATENCY, measure=measure)[""]
            supported = np.where(counts >= DEFAULT.minimum_support, hours, np.nan)
            yield from _judged(project, {Subject(metric, LATENCY, measure): supported}, start_ms, counts=False)


def _top(series: Series) -> Series:
    """Return the values with the most events, of those that have enough to be judged by."""
    latest = {value: float(np.nansum(hours[-TOP_WEEKS * WEEK :])) for value, hours in series.items() if value != OTHER}
    ranked = sorted(
        (value for value in latest if latest[value] >= DEFAULT.minimum_support), key=lambda v: (-latest[v], v)
    )
    return {value: series[value] for value in ranked[:TOP_VALUES]}


def _judged(
    project: str, series: Mapping[Subject, NDArray[np.float64]], start_ms: int, *, counts: bool = True
) -> Iterator[Anomaly]:
    """Yield the anomalies of the last JUDGED_HOURS."""
    if not series:
        return
    subjects, values = list(series), np.stack(list(series.values()))
    for first in range(JUDGED_HOURS):
        hour_ms = start_ms + (first + HISTORY_HOURS) * HOUR_MS
        window = values[:, first : first + HISTORY_HOURS + 1]
        for finding in find(window, hour_ms, counts=counts):
            yield _anomaly(project, subjects[finding.series], hour_ms, finding)


def _hour(anomaly: Anomaly) -> str:
    return anomaly.hour


def _anomaly(project: str, subject: Subject, hour_ms: int, finding: Finding) -> Anomaly:
    return Anomaly(
        project,
        subject,
        hour_of(hour_ms),
        finding.kind,
        finding.direction,
        round(finding.observed, 3),
        round(finding.expected, 3),
        round(finding.score, 2),
        finding.method,
    )
