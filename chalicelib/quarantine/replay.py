"""What was rejected: shown with its reasons, and, once a contract or a mode has changed, brought in after all.

A file of the quarantine is replayed as one message, put into the buffer before the file is rewritten without the events
or deleted. Each event is a chunk by itself, whose key depends on the event alone: however often a replay dies, or is
repeated with other filters or contracts, an event is rewritten, not counted again (docs/decisions/0019).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.access.access import Project
from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.errors import Unavailable
from chalicelib.base.object_keys import quarantine_folder
from chalicelib.base.time_windows import hour_of
from chalicelib.events.chunks import Message
from chalicelib.events.events import MAX_AGE_DAYS, Admitter
from chalicelib.quarantine.files import QuarantineFile, Retrial, retry, shown
from chalicelib.quarantine.selections import Place, Selection
from chalicelib.quarantine.store import QuarantineFiles
from chalicelib.rollups.ledger import Tally, Totals
from chalicelib.rollups.ledger_table import LedgerTable

REPLAYED_HOURS = (MAX_AGE_DAYS + 1) * 24  # what was received before stays in quarantine
MAX_FILES = 200  # of one request
MAX_SECONDS = 8.0  # of one request, in which the last file begins; API Gateway waits for 29
MAX_SHOWN_BYTES = 3 * 1024 * 1024  # of a page; Lambda answers with 6 MB at most
MAX_COUNTED = 1000  # of the files that are left

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replayer:
    """Works on one project's files at a time. `put` makes a message durable and says how many of its events are."""

    admitter: Admitter
    put: Callable[[Message], int]
    bucket: DataBucket
    ledger: LedgerTable
    tally: Tally
    clock: Callable[[], float]

    def show(self, project: str, selection: Selection) -> dict[str, Any]:
        """Return a page of rejected events, those of the last minute first; `next` is the cursor of the page after it.

        A page may have fewer than `limit` events, or none, and yet a next one: few of the files looked at had any.
        """
        events: list[dict[str, Any]] = []
        size_bytes = 0
        done = selection.after
        until = self.clock() + MAX_SECONDS
        for number, place in enumerate(self._places(project, selection)):
            if number and (number == MAX_FILES or self.clock() >= until):
                return _page(events, done)
            if file := QuarantineFiles(self.bucket).read(place.key(project)):
                for record in selection.chosen(file, place):
                    at = Place(place.date, place.name, record.index)
                    event, event_bytes = shown(record, file, str(at))
                    if events and (len(events) == selection.limit or size_bytes + event_bytes > MAX_SHOWN_BYTES):
                        return _page(events, done)
                    events.append(event)
                    size_bytes += event_bytes
                    done = at
            done = place
        return _page(events, None)

    def replay(self, project: Project, selection: Selection, now_ms: int) -> dict[str, Any]:
        """Judge the selected events again, by today's contracts and the project's mode, and store those that pass.

        Returns how many were `replayed` (or would be, of a dry run), how many stay by `reasons`, how many `files` are
        `left`, and the cursor of the `next` request, which there is as long as files are left. Raises Unavailable when
        neither buffer nor spill takes an event: it stays, and the same request goes on from there.
        """
        replayed, reasons = 0, Counter[str]()
        done, left = selection.after, 0
        until = self.clock() + MAX_SECONDS
        places = self._places(project.id, selection)
        for number, place in enumerate(places):
            if number and (number == MAX_FILES or self.clock() >= until):
                left = 1 + sum(1 for _ in islice(places, MAX_COUNTED - 1))
                break
            name = place.key(project.id)
            if file := QuarantineFiles(self.bucket).read(name):
                records = selection.chosen(file, place)
                trial = retry(file, records, name, self.admitter, project.mode, now_ms)
                if not selection.dry_run:
                    self._bring_in(file, trial, now_ms)
                    self._keep(file, trial, name)
                replayed += len(trial.taken)
                reasons += trial.codes()
            done = place
        counts = {"replayed": replayed, "rejected": reasons.total(), "dry_run": selection.dry_run}
        log.info("quarantine replayed", extra={"project": project.id, **counts, "left": left})
        return {**counts, "reasons": dict(reasons), "left": left, "next": done.cursor() if left and done else None}

    def _bring_in(self, file: QuarantineFile, trial: Retrial, now_ms: int) -> None:
        """Make the events durable; for the ledger they are received once more, in the hour they were received in."""
        if not trial.events:
            return
        with self.tally.borrowed() as totals:
            self._send(file, trial, now_ms, totals)

    def _send(self, file: QuarantineFile, trial: Retrial, now_ms: int, totals: Totals) -> None:
        hour, count = hour_of(file.received_ms), len(trial.events)
        receipt = totals.add(
            file.project, hour, received=len(trial.taken), repeated=len(trial.taken) - len(trial.events)
        )
        durable = self.put(Message(file.project, file.received_ms, trial.events, receipt, file.client, apart=True))
        if durable < count:
            receipt = totals.add(file.project, hour, refused=count - durable, attempted=count)
        try:
            self.ledger.put(file.project, hour, receipt, now_ms // 1000)
        except (BotoCoreError, ClientError) as error:  # the message brings it too
            log.warning("receipt not put", extra={"project": file.project, "reason": str(error)})
        if durable < count:
            raise Unavailable(f"neither the buffer nor S3 accepted {count - durable} events; they stay in quarantine")

    def _keep(self, file: QuarantineFile, trial: Retrial, key: str) -> None:
        """Leave what was not taken, with its latest reason. Nothing is lost if another replay did the same meanwhile.

        What a file once held and holds no more is durable elsewhere, whoever wrote the file last.
        """
        rest = trial.rest(file)
        if not rest.records:
            self.bucket.delete(key)
        elif rest.records != file.records:
            self.bucket.put_gzip(key, rest.encode())

    def _places(self, project: str, selection: Selection) -> Iterator[Place]:
        """The files that may hold selected records, those of the last minute first."""
        first, last = selection.days()
        last = min(last, selection.after.date) if selection.after else last
        folder = f"{quarantine_folder(project)}dt="
        dates = sorted((name[len(folder) : -1] for name in self.bucket.folders(folder)), reverse=True)
        for date in dates:
            if not first <= date <= last:
                continue
            for key in self.bucket.keys(f"{folder}{date}/", after=selection.before(project, date)):
                place = Place.of(key)
                if selection.ends(place):
                    break
                yield place


def _page(events: list[dict[str, Any]], done: Place | None) -> dict[str, Any]:
    return {"events": events, "next": done.cursor() if done else None}
