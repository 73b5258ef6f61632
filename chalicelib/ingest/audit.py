"""Every minute: is all that was received accounted for? The answer is a set of metrics, and an alarm when it is no.

An hour stays in view until it balances: its receipts are in an index, which they leave then. So it makes no difference
whether the audit was down for a day, or an hour has lacked something for a week.
"""

import logging
from dataclasses import dataclass

from chalicelib.base import metrics, waits
from chalicelib.base.time_windows import HOUR_MS, hour_start_ms
from chalicelib.rollups.history import History
from chalicelib.rollups.ledger import Ledger, Receipt
from chalicelib.rollups.ledger_table import LedgerTable, OpenHour

AUDITED_SECONDS = 2 * 3600  # an hour that ended within this time is in the quantities
MAX_BALANCED = 500  # receipts of a run, each of which is a write; the others are for the next

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Auditor:
    """Reads both sides of the ledger, and takes what balances out of view."""

    ledger: LedgerTable
    history: History
    stage: str

    def audit(self, now: int, spilled: int) -> dict[str, int]:
        """Emit the metrics of all projects together, as of `now` (Unix seconds), and return them.

        `spilled` is how many messages could not be brought back from the spill.
        """
        values = dict.fromkeys(_TERMS, 0)
        missing = surplus = 0
        balanced: list[tuple[OpenHour, list[Receipt]]] = []
        for found in self.ledger.open_hours(now - AUDITED_SECONDS):
            receipts, ledger = self._sides(found)
            balance = ledger.balance()
            end = (hour_start_ms(found.hour) + HOUR_MS) // 1000
            is_old = end <= now - AUDITED_SECONDS
            if not is_old:  # of an older hour something was replayed, or it does not balance
                for name in values:
                    values[name] += balance[_TERMS[name]]
            last = max(end, found.received)
            if last > now - waits.IN_FLIGHT_MS // 1000:
                continue
            too_many = balance["surplus"] if last > now - waits.SURPLUS_MS // 1000 else 0
            if balance["in_flight"] or too_many:
                extra = {"project": found.project, "hour": found.hour, **balance}
                log.warning("ledger does not balance", extra=extra)
                missing += balance["in_flight"]
                surplus += too_many
            elif is_old:
                balanced.append((found, receipts))
        values |= {"EventsMissing": missing, "EventsSurplus": surplus, "MessagesSpilled": spilled}
        metrics.emit(self.stage, now * 1000, values)
        self._take_out(balanced)
        return values

    def _sides(self, found: OpenHour) -> tuple[list[Receipt], Ledger]:
        """Return the receipts of an hour, and its ledger with them.

        The edge's side is read first: what is stored meanwhile brings its own receipt, so nothing seems to be missing.
        """
        receipts = self.ledger.receipts(found.project, found.hour, found.hour).get(found.hour, [])
        ledger = self.history.ledger(found.project, found.hour)
        ledger.note(*receipts)
        return receipts, ledger

    def _take_out(self, balanced: list[tuple[OpenHour, list[Receipt]]]) -> None:
        left = MAX_BALANCED
        for found, receipts in balanced:
            counted = [each for each in receipts if each.container in found.containers and not each.dropped][:left]
            self.ledger.take_out(found, counted)
            left -= len(counted)


_TERMS = {
    "EventsReceived": "received",
    "EventsStored": "stored",
    "EventsDuplicate": "duplicate",
    "EventsQuarantined": "quarantined",
    "EventsErased": "erased",
    "EventsInFlight": "in_flight",
}
