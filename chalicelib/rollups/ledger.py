"""The ledger: what became of every event received, per project and hour of receipt.

received = stored + duplicate + quarantined + erased + in flight - surplus. The left side is counted at the edge, the
right side where chunks come out of the events table's stream, so an event that is lost between the two stays in flight.

Each container of the edge counts what it received in totals that only grow, so each event has a *position* in its
container's count. A `Receipt` is a container's totals at one moment: the largest one seen is the latest, however often
and in whatever order receipts come. Receipts travel with the messages and are put beside the rollups once a second, so
counting costs no write per event, and a count that was not put before its container died still comes with its messages.

On the other side stands which positions were stored, and which came again: sets, so that nothing counts twice however
often it is delivered, and what is missing is a gap that nothing else can fill. Beside them stands how many events were
counted, as often as the metrics have them: what that is more than the sets hold is a surplus, which fills no gap.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from threading import Lock
from typing import Any

from chalicelib.base.spans import Span, Spans, join, size, size_from

MAX_HOLDERS = 1000  # of which is kept when their receipt was put; bounds memory
MAX_SPANS = 40_000  # of an encoded ledger: 40 KB when every second event is there, three times as much at most


@dataclass(frozen=True, slots=True)
class Receipt:
    """A container's totals of one project and hour."""

    container: str
    received: int = 0  # all that were judged
    quarantined: int = 0  # of them
    repeated: int = 0  # of them: the same event again in the same request
    refused: int = 0  # of them: neither queue nor spill took them, and the client was told so
    erased: int = 0  # not stored, because they are an erased user's; of older versions, for each message apart
    attempted: int = 0  # how many the last request wanted to store, when some were refused; no request follows then
    dropped: tuple[Span, ...] = ()  # the positions of an erased user's events, which `process` did not store

    @classmethod
    @lru_cache(maxsize=4096)  # the chunks of a message have the same one
    def from_text(cls, text: str) -> "Receipt":
        """Return the inverse of str(); raises ValueError for what is no receipt."""
        container, received, quarantined, repeated, refused, *more = text.split(":")
        receipt = cls(container, int(received), int(quarantined), int(repeated), int(refused))
        for each in more:
            if each.startswith("a"):
                receipt = replace(receipt, attempted=int(each[1:]))
            elif "-" in each:
                receipt = replace(receipt, dropped=tuple(_span(span) for span in each.split(",")))
            else:
                receipt = replace(receipt, erased=int(each))
        return receipt

    def __str__(self) -> str:
        text = f"{self.container}:{self.received}:{self.quarantined}:{self.repeated}:{self.refused}"
        if self.erased:
            text += f":{self.erased}"
        if self.attempted:
            text += f":a{self.attempted}"
        if self.dropped:
            text += ":" + ",".join(f"{start}-{end}" for start, end in self.dropped)
        return text

    def counted(self) -> int:
        """More with everything that is added: of two receipts of a container, the later one has more."""
        return self.received + self.quarantined + self.repeated + self.refused + self.erased + size(self.dropped)

    def latest(self, other: "Receipt") -> "Receipt":
        """Of two receipts of a container the later one: no total ever shrinks."""
        if (
            other.received >= self.received
            and other.quarantined >= self.quarantined
            and other.repeated >= self.repeated
            and other.refused >= self.refused
            and other.erased >= self.erased
            and other.attempted >= self.attempted
        ):
            return other  # almost always: making one costs more than all that is counted of a chunk
        return Receipt(
            self.container,
            max(self.received, other.received),
            max(self.quarantined, other.quarantined),
            max(self.repeated, other.repeated),
            max(self.refused, other.refused),
            max(self.erased, other.erased),
            max(self.attempted, other.attempted),
        )


def _span(text: str) -> Span:
    start, end = text.split("-")
    return int(start), int(end)


@dataclass(slots=True)
class Account:
    """Where the events of a container ended, by their positions in its count."""

    stored: Spans = field(default_factory=Spans)
    rewritten: Spans = field(default_factory=Spans)  # in chunks that were there before: a request that was sent again
    erased: Spans = field(default_factory=Spans)

    def merge(self, other: "Account") -> None:
        """Take in what another share says of the container."""
        self.stored.merge(other.stored)
        self.rewritten.merge(other.rewritten)
        self.erased.merge(other.erased)

    def terms(self, receipt: Receipt) -> dict[str, int]:
        """Return each term of the equation, each event in the first that it is in: no term can make up for another."""
        stored, delivered, ended = self._ended()
        # What was refused may yet have been taken, when only the answer was lost; then it is received after all.
        attempted = receipt.attempted or receipt.received
        lacking = attempted - size_from(ended, receipt.received - attempted)
        terms = {
            "received": receipt.received - min(receipt.refused, max(lacking, 0)),
            "stored": size(stored) + self.stored.uncertain,
            "duplicate": receipt.repeated + size(delivered) - size(stored) + self.rewritten.uncertain,
            "quarantined": receipt.quarantined,
            "erased": size(ended) - size(delivered) + self.erased.uncertain,
        }
        left = terms["received"] - sum(terms[name] for name in ENDS)
        return terms | {"in_flight": max(left, 0), "surplus": max(-left, 0)}

    def spans(self) -> int:
        """Return how many spans it takes to say so."""
        return sum(len(each.joined()) for each in (self.stored, self.rewritten, self.erased))

    def to_json(self, *, exact: bool) -> list[list[int]]:
        """As it lies in an item; unless `exact`, only how many events there are of each kind."""
        kinds = [self.stored, self.rewritten, self.erased]
        if not exact:
            stored, delivered, ended = self._ended()
            sizes = size(stored), size(delivered) - size(stored), size(ended) - size(delivered)
            kinds = [Spans([], n + kind.uncertain) for n, kind in zip(sizes, kinds, strict=True)]
        found = [kind.to_json() for kind in kinds]
        while found and not found[-1]:
            found.pop()
        return found

    def _ended(self) -> tuple[list[Span], list[Span], list[Span]]:
        """Return what was stored; with it what came again; and with both what was dropped."""
        stored = self.stored.joined()
        delivered = join([*stored, *self.rewritten.joined()])
        return stored, delivered, join([*delivered, *self.erased.joined()])


ENDS = "stored", "duplicate", "quarantined", "erased"


@dataclass(slots=True)
class Ledger:
    """One project and hour of receipt.

    `stored` and `rewritten` are events of which nobody knows the container: of messages without a receipt, and as
    older versions counted them.
    """

    stored: int = 0
    rewritten: int = 0
    bots: int = 0  # of the stored; no metric counts them
    counted: int = 0  # of the stored whose container is known, each as often as it is counted
    receipts: dict[str, Receipt] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    def note(self, *receipts: Receipt) -> None:
        """Take in what containers say; again, or late, changes nothing."""
        for receipt in receipts:
            known = self.receipts.get(receipt.container)
            if known is receipt:
                continue
            if receipt.dropped:
                self._account(receipt.container).erased.added.extend(receipt.dropped)
                receipt = replace(receipt, dropped=())
            self.receipts[receipt.container] = known.latest(receipt) if known else receipt

    def take(self, receipt: Receipt | None, position: int | None, events: int, *, again: bool) -> None:
        """Take in a chunk that was stored, or stored `again`; its first event has this position of the receipt's count.

        Without a position, which older versions do not give it, only the number is kept.
        """
        if receipt is None:
            if again:
                self.rewritten += events
            else:
                self.stored += events
            return
        if self.receipts.get(receipt.container) is not receipt:
            self.note(receipt)
        account = self.accounts.get(receipt.container)
        if account is None:
            account = self.accounts[receipt.container] = Account()
        spans = account.rewritten if again else account.stored
        if not again:
            self.counted += events
        if position is None:
            spans.uncertain += events
        else:
            spans.added.append((position, position + events))

    def merge(self, other: "Ledger") -> None:
        """Take in another share of the same hour."""
        self.stored += other.stored
        self.rewritten += other.rewritten
        self.bots += other.bots
        self.counted += other.counted
        self.note(*other.receipts.values())
        for container, account in other.accounts.items():
            self._account(container).merge(account)

    def balance(self) -> dict[str, int]:
        """Return each term of the equation; what the client was told to send again counts on neither side.

        What is in flight of one container is never made up for by a surplus, be it of another container or of events
        that are counted more than once.
        """
        total = dict.fromkeys(("received", *ENDS, "in_flight", "surplus"), 0)
        for container, receipt in self.receipts.items():
            for name, number in self.accounts.get(container, Account()).terms(receipt).items():
                total[name] += number
        total["surplus"] += max(self.counted - total["stored"], 0)
        # Whose these are is not known, so they can only stand against all that is open.
        nobodys = {
            "stored": self.stored,
            "duplicate": self.rewritten,
            "erased": sum(receipt.erased for receipt in self.receipts.values()),
        }
        for name, number in nobodys.items():
            total[name] += number
        left = total["in_flight"] - sum(nobodys.values())
        return total | {
            "in_flight": max(left, 0),
            "surplus": total["surplus"] + max(-left, 0),
            "bots": self.bots,
        }

    def to_json(self) -> list[Any]:
        """As it lies in an item.

        Of more than MAX_SPANS, those of the containers with the most are kept as numbers: exact as they are, but what
        comes again later is then a surplus of that container.
        """
        spans = {container: account.spans() for container, account in self.accounts.items()}
        left = sum(spans.values())
        inexact: set[str] = set()
        for container in sorted(spans, key=lambda each: (-spans[each], each)):
            if left <= MAX_SPANS:
                break
            inexact.add(container)
            left -= spans[container]
        entries: list[Any] = []
        for container, receipt in sorted(self.receipts.items()):
            account = self.accounts.get(container)
            places = account.to_json(exact=container not in inexact) if account else []
            entries.append([str(receipt), *places] if places else str(receipt))
        return [self.stored, self.rewritten, self.bots, self.counted, *entries]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Ledger":
        """Return the inverse of `to_json`, and of what older versions wrote, who knew no positions."""
        stored, rewritten, bots, *entries = data
        counted = entries.pop(0) if entries and isinstance(entries[0], int) else 0
        ledger = cls(stored, rewritten, bots, counted)
        for entry in entries:
            text, *places = [entry] if isinstance(entry, str) else entry
            receipt = Receipt.from_text(text)
            ledger.note(receipt)
            if places:
                ledger._account(receipt.container).merge(Account(*map(Spans.from_json, places)))
        return ledger

    def _account(self, container: str) -> Account:
        account = self.accounts.get(container)
        if account is None:
            account = self.accounts[container] = Account()
        return account


@dataclass(slots=True)
class Totals:
    """What was counted so far by one container, or by one of the threads of a container."""

    container: str
    kept_hours: int = 2  # the edge counts in the hour it is
    by_hour: dict[tuple[str, str], Receipt] = field(default_factory=dict)  # (project, hour) -> the totals
    renamed: int = 0

    def add(
        self,
        project: str,
        hour: str,
        *,
        received: int = 0,
        quarantined: int = 0,
        repeated: int = 0,
        refused: int = 0,
        attempted: int = 0,
    ) -> Receipt:
        """Add to the totals of an hour and return them.

        After a refusal these are the last under their name, so that the refused are at the end of its count.
        """
        known = self.by_hour.get((project, hour))
        if known is None:
            self._forget_old_hours(hour)
        elif known.refused:
            self.renamed += 1
            known = None
        if known is None:
            known = Receipt(f"{self.container}.{self.renamed}" if self.renamed else self.container)
        total = Receipt(
            known.container,
            known.received + received,
            known.quarantined + quarantined,
            known.repeated + repeated,
            known.refused + refused,
            attempted=attempted,
        )
        self.by_hour[project, hour] = total
        return total

    def _forget_old_hours(self, hour: str) -> None:
        """Keep the last. One that is counted in again has another name, for its positions begin anew."""
        kept = sorted({hour, *(of for _, of in self.by_hour)})[-self.kept_hours :]
        left = {key: total for key, total in self.by_hour.items() if key[1] in kept}
        self.renamed += len(left) < len(self.by_hour)
        self.by_hour = left


@dataclass(slots=True)
class Tally:
    """The totals of this container; threads may share it.

    Each request in progress has totals of its own: in shared ones, a receipt that went out with one request would
    count another's events, and if the process died then, those would be in flight for ever.
    """

    container: str
    kept_hours: int = 2
    idle: list[Totals] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def borrowed(self) -> Iterator[Totals]:
        """Totals that nobody else adds to meanwhile."""
        try:
            totals = self.idle.pop()
        except IndexError:
            totals = Totals(f"{self.container}-{next(self.numbers)}", self.kept_hours)
        try:
            yield totals
        finally:
            self.idle.append(totals)


Holder = tuple[str, str, str]  # of totals: project, hour, and the name of the container


@dataclass(slots=True)
class Puts:
    """Which receipts of this container are to be put now: each one's totals once in `gap_ms` at most.

    The first of an hour is put at once. Later ones wait, and are put with the first request after the gap, whosever it
    is: else the last ones of an hour would be known by their messages alone.
    """

    gap_ms: int
    put_ms: dict[Holder, int] = field(default_factory=dict)
    waiting: dict[Holder, Receipt] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def due(self, holder: Holder, receipt: Receipt, now_ms: int, *, at_once: bool) -> list[tuple[Holder, Receipt]]:
        """Return what to put with a request that came to this receipt: two receipts at most."""
        with self.lock:
            before_ms = now_ms - self.gap_ms  # who was put before, or never, has its turn
            due = [(holder, receipt)] if at_once or self.put_ms.get(holder, before_ms) <= before_ms else []
            self.waiting[holder] = receipt
            other = next(iter(self.waiting))  # the one that waits for the longest
            if other != holder and self.put_ms.get(other, before_ms) <= before_ms:
                due.append((other, self.waiting[other]))
            for each, _ in due:
                self.put_ms[each] = now_ms
            if len(self.put_ms) > MAX_HOLDERS:
                self.put_ms = {each: at for each, at in self.put_ms.items() if now_ms - at < self.gap_ms}
            return due

    def done(self, holder: Holder, receipt: Receipt, *, is_put: bool) -> None:
        """Forget what is put, unless it has become more; what could not be put waits for its next turn."""
        with self.lock:
            latest = self.waiting.pop(holder, None)
            if latest is not None and not (is_put and latest == receipt):
                self.waiting[holder] = latest
