"""Every minute: which of the users' alerts fire, which have ended; and everybody is told.

A change of state and its pending notice are one conditional update. The notice is published, and then it is not pending
any more; a run that dies in between has the next one publish it, perhaps again, under the same id.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Protocol

from chalicelib.alerts.alerts import ID_DIGITS, MAX_WINDOW_MINUTES, Alert, AlertState, notice_of, read_alert, unknown
from chalicelib.alerts.alerts_table import AlertsTable
from chalicelib.base.errors import InvalidRequest, NotFound
from chalicelib.base.time_windows import MINUTE_MS
from chalicelib.events.contracts import Contracts
from chalicelib.notices.publisher import Notices
from chalicelib.rollups.rollups import Rollups

MAX_ALERTS = 100  # of a project, each of which is looked at every minute

log = logging.getLogger(__name__)


class Recent(Protocol):
    """Where the last minutes come from."""

    def arrived(self, project: str, start_ms: int, end_ms: int) -> list[tuple[int, Rollups]]:
        """Rollups with the start of the minute of their arrival; several of a minute add up."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Keeps alerts, and evaluates them."""

    alerts: AlertsTable
    recent: Recent
    notices: Callable[[], Notices]  # made when they are needed: the edge only keeps alerts
    contracts: Contracts
    event_types: Callable[[str], Iterable[str]]  # that a project ever sent

    def create(self, project: str, document: Mapping[str, Any], now_ms: int) -> tuple[dict[str, Any], bool]:
        """Keep an alert; return it, and whether it is new: the same words are the same alert. Raises InvalidRequest.

        It comes with `warnings` when no event has its metric yet.
        """
        alert = read_alert(document, project, self.contracts)
        warning = unknown(alert, self.contracts, lambda: self.event_types(project))
        warnings = {"warnings": [warning]} if warning else {}
        known = dict(islice(((found.id, (found, state)) for found, state in self.alerts.alerts(project)), MAX_ALERTS))
        if alert.id in known:
            return _shown(*known[alert.id]) | warnings, False
        if len(known) >= MAX_ALERTS:
            raise InvalidRequest(
                f"the project has {len(known)} alerts; the limit is {MAX_ALERTS}", code="too_many_alerts"
            )
        return _shown(alert, AlertState(now_ms)) | warnings, self.alerts.put(alert, now_ms)

    def show(self, project: str) -> dict[str, Any]:
        """Return every alert of a project, with its state."""
        return {"alerts": [_shown(alert, state) for alert, state in self.alerts.alerts(project)]}

    def delete(self, project: str, alert_id: str) -> None:
        """Raises NotFound."""
        if len(alert_id) != ID_DIGITS or not self.alerts.delete(project, alert_id):  # a longer one might fit no key
            raise NotFound(f"alert {alert_id[:64]!r} does not exist; GET /alerts lists those that do")

    def watch(self, now_ms: int) -> int:
        """Evaluate all alerts for the last whole minute, and publish; returns how many notices were given.

        Raises an ExceptionGroup, after all the others are done, when alerts of a project could not be evaluated.
        """
        end_ms = now_ms // MINUTE_MS * MINUTE_MS
        given = 0
        failures: list[Exception] = []
        for project, alerts in groupby(self.alerts.alerts(), key=lambda pair: pair[0].project):
            try:
                given += self._watch(project, list(alerts), end_ms)
            except Exception as error:  # noqa: BLE001 - one project's trouble must not keep all others from being told
                log.warning("alerts not evaluated", extra={"project": project, "reason": repr(error)})
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"the alerts of {len(failures)} projects were not evaluated", failures)
        return given

    def _watch(self, project: str, alerts: list[tuple[Alert, AlertState]], end_ms: int) -> int:
        longest = max(alert.window_minutes for alert, _ in alerts)
        minutes = self.recent.arrived(project, end_ms - min(longest, MAX_WINDOW_MINUTES) * MINUTE_MS, end_ms)
        given = 0
        for alert, state in alerts:
            if state.pending is not None:  # of a run that died; what is now is for the next minute
                given += self._tell(alert, state)
                continue
            start_ms = end_ms - alert.window_minutes * MINUTE_MS
            value = alert.value((rollups for at_ms, rollups in minutes if at_ms >= start_ms), self.contracts)
            changed = state.next(alert, value, end_ms)
            if changed is not None and self.alerts.change(alert, state, changed):
                given += self._tell(alert, changed)
        return given

    def _tell(self, alert: Alert, state: AlertState) -> bool:
        assert state.pending is not None
        self.notices().publish(notice_of(state.pending))
        log.info(
            "alert changed", extra={"project": alert.project, "alert_id": alert.id, "state": state.pending["state"]}
        )
        return self.alerts.told(alert, state)


def _shown(alert: Alert, state: AlertState) -> dict[str, Any]:
    return {**alert.to_json(), **state.to_json()}
