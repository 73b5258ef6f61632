"""Every minute: is all that was received accounted for? The answer is a set of metrics, and an alarm when it is no."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from chalicelib import metrics
from chalicelib.domain.ledger import Ledger
from chalicelib.domain.time_windows import HOUR_MS, hour_start_ms
from chalicelib.storage.history import History
from chalicelib.storage.ledger_table import LedgerTable

AUDITED_SECONDS = 2 * 3600  # what was received in this time
SETTLED_SECONDS = 900  # after its end, or a replay, an hour has nothing in flight, unless something is wrong

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Auditor:
    """Reads both sides of the ledger; writes nothing."""

    ledger: LedgerTable
    history: History
    stage: str

    def audit(self, now: int, spilled: int) -> dict[str, int]:
        """Emit the metrics of all projects together, as of `now` (epoch seconds), and return them.

        `spilled` is how many messages could not be brought back from the spill.
        """
        values = dict.fromkeys(
            ("EventsReceived", "EventsStored", "EventsDuplicate", "EventsQuarantined", "EventsInFlight"), 0
        )
        missing = surplus = 0
        for project, hour, received, ledger in self._ledgers(now - AUDITED_SECONDS):
            balance = ledger.balance()
            end = (hour_start_ms(hour) + HOUR_MS) // 1000
            if end > now - AUDITED_SECONDS:  # of an older hour something was replayed
                for name in values:
                    values[name] += balance[_TERMS[name]]
            is_balanced = not balance["in_flight"] and not balance["surplus"]
            if not is_balanced and max(end, received) <= now - SETTLED_SECONDS:
                log.warning("ledger does not balance", extra={"project": project, "hour": hour, **balance})
                missing += balance["in_flight"]
                surplus += balance["surplus"]
        values |= {"EventsMissing": missing, "EventsSurplus": surplus, "MessagesSpilled": spilled}
        metrics.emit(self.stage, now * 1000, values)
        return values

    def _ledgers(self, since: int) -> Iterator[tuple[str, str, int, Ledger]]:
        """By project and hour of receipt, with the second in which something of it was last received, or replayed."""
        for project, hour, received in self.ledger.hours(since):
            # The edge's side first: what is stored meanwhile brings its own receipt, so nothing seems to be missing.
            receipts = self.ledger.receipts(project, hour, hour)
            ledger = self.history.ledger(project, hour)
            ledger.note(*receipts.get(hour, ()))
            yield project, hour, received, ledger


_TERMS = {
    "EventsReceived": "received",
    "EventsStored": "stored",
    "EventsDuplicate": "duplicate",
    "EventsQuarantined": "quarantined",
    "EventsInFlight": "in_flight",
}
