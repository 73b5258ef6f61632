"""Every minute: is all that was received accounted for? The answer is a set of metrics, and an alarm when it is no."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from chalicelib import metrics
from chalicelib.domain.ledger import Ledger
from chalicelib.domain.time_windows import HOUR_MS, hour_start_ms
from chalicelib.storage.ledger_table import LedgerTable
from chalicelib.storage.rollups_table import RollupsTable

AUDITED_SECONDS = 2 * 3600  # what was received in this time
SETTLED_SECONDS = 900  # after its end an hour has nothing in flight, unless something is wrong

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Auditor:
    """Reads both sides of the ledger; writes nothing."""

    ledger: LedgerTable
    rollups: RollupsTable
    stage: str

    def audit(self, now: int, spilled: int) -> dict[str, int]:
        """Emit the metrics of all projects together, as of `now` (epoch seconds), and return them.

        `spilled` is how many messages could not be brought back from the spill.
        """
        values = dict.fromkeys(
            ("EventsReceived", "EventsStored", "EventsDuplicate", "EventsQuarantined", "EventsInFlight"), 0
        )
        missing = 0
        for project, hour, ledger in self._ledgers(now - AUDITED_SECONDS):
            balance = ledger.balance()
            for name in values:
                values[name] += balance[_TERMS[name]]
            if balance["in_flight"] and hour_start_ms(hour) + HOUR_MS <= (now - SETTLED_SECONDS) * 1000:
                log.warning("ledger does not balance", extra={"project": project, "hour": hour, **balance})
                missing += abs(balance["in_flight"])
        values |= {"EventsMissing": missing, "MessagesSpilled": spilled}
        metrics.emit(self.stage, now * 1000, values)
        return values

    def _ledgers(self, since: int) -> Iterator[tuple[str, str, Ledger]]:
        for project, hour in self.ledger.hours(since):
            # The edge's side first: what is stored meanwhile brings its own receipt, so nothing seems to be missing.
            receipts = self.ledger.receipts(project, hour)
            ledger = self.rollups.read_hour(project, hour).total().ledger
            ledger.note(*receipts)
            yield project, hour, ledger


_TERMS = {
    "EventsReceived": "received",
    "EventsStored": "stored",
    "EventsDuplicate": "duplicate",
    "EventsQuarantined": "quarantined",
    "EventsInFlight": "in_flight",
}
