"""What became of each event that was received, as clients and the hot store's stream tell it."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from chalicelib.events.chunks import unpack_events
from tests.simulation.ports.table_stream import StreamRecord
from tests.simulation.workload import hour_name

Hour = tuple[str, str]  # project, and hour of receipt
Received = tuple[str, str, str]  # an event at one of its receipts: container of the edge, time, and its id


@dataclass
class Account:
    """One hour of receipt of a project."""

    stored: Counter[Received] = field(default_factory=Counter)  # how often it came out of the hot store as new
    again: set[Received] = field(default_factory=set)  # in chunks that were there before
    lost: set[Received] = field(default_factory=set)  # in records that `aggregate` was never done with

    told: dict[str, int] = field(default_factory=dict)  # by container: of how many its last receipt in the table tells

    def surplus(self) -> int:
        """What came out of the hot store once more, as an erasure may have it; it counts twice until it is closed."""
        return self.stored.total() - len(self.stored)

    def silent(self) -> int:
        """Events that were lost together with the only receipt that told of them, which guarantees except."""
        seen, lost = Counter[str](), Counter(container for container, _, _ in self.lost)
        seen.update(container for container, _, _ in {*self.stored, *self.again})
        known = {each: max(self.told.get(each, 0), count - lost[each]) for each, count in seen.items()}
        return sum(max(0, count - known[each]) for each, count in seen.items())


@dataclass
class Accounts:
    """By hour of receipt; and by project what clients sent and were told."""

    hours: dict[Hour, Account] = field(default_factory=lambda: defaultdict(Account))
    sent: Counter[str] = field(default_factory=Counter)  # events, each as often as it was sent
    taken: Counter[str] = field(default_factory=Counter)  # of them: answered as accepted
    rejected: Counter[str] = field(default_factory=Counter)  # … and as rejected

    def wrote(self, record: StreamRecord) -> None:
        """Something was written into the hot store."""
        for hour, received in _received(record):
            if record.event == "INSERT":
                self.hours[hour].stored[received] += 1
            else:
                self.hours[hour].again.add(received)

    def lose(self, record: StreamRecord) -> None:
        """The record was forgotten before `aggregate` was done with it, though an attempt may have counted it."""
        for hour, received in _received(record):
            self.hours[hour].lost.add(received)

    def surplus(self) -> int:
        """Of all hours."""
        return sum(account.surplus() for account in self.hours.values())

    def wrong(self, project: str, balances: dict[str, dict[str, int]], *, erases: bool, doubtful: bool) -> str:
        """What the ledger says of a project that is not so, by hour of receipt; empty where all of it is right."""
        for hour in sorted({*balances, *(hour for owner, hour in self.hours if owner == project)}):
            found = balances.get(hour)
            if found is None:
                return f"the ledger of {project} knows nothing of {hour}"
            if what := _wrong(self.hours.get((project, hour), Account()), found, doubtful=doubtful):
                return f"the ledger of {project} {hour}: {what} in {found}"
        total, silent = Counter[str](), 0
        for hour, found in balances.items():
            total.update(found)
            silent += self.hours[project, hour].silent()
        if not self.taken[project] + self.rejected[project] - silent <= total["received"] <= self.sent[project]:
            return f"the ledger of {project}: received {total['received']} of {self.sent[project]}"
        if total["quarantined"] < self.rejected[project]:
            return f"the ledger of {project}: quarantined {total['quarantined']}, and {self.rejected[project]} were"
        return f"the ledger of {project}: erased {total['erased']}" if total["erased"] and not erases else ""


def _wrong(account: Account, found: dict[str, int], *, doubtful: bool) -> str:
    seen = [each for each in account.stored if each not in account.lost]
    if not len(seen) <= found["stored"] <= len(account.stored):
        return f"stored is {found['stored']}, not {len(seen)} to {len(account.stored)}"
    again = account.again - {*account.stored}
    least = len(again - account.lost)
    most = least if not account.lost else len({*account.again, *account.lost})
    if not least <= found["duplicate"] <= most:
        return f"duplicate is {found['duplicate']}, not {least} to {most}"
    if found["in_flight"] > len(account.lost):
        return f"in flight is {found['in_flight']}, of {len(account.lost)} that were lost"
    known = len({*account.stored, *account.again}) - account.silent()
    if found["in_flight"] < known - found["stored"] - found["duplicate"]:
        return f"in flight is {found['in_flight']}, which hides what was lost"
    if found["surplus"] != account.surplus() and not doubtful:
        return f"surplus is {found['surplus']}, not {account.surplus()}"
    ends = sum(found[name] for name in ("stored", "duplicate", "quarantined", "erased", "in_flight"))
    return "" if found["received"] == ends else f"received is {found['received']}, not {ends}"


def _received(record: StreamRecord) -> Iterable[tuple[Hour, Received]]:
    """The events of a chunk that a client sent."""
    image = record.image
    if record.event == "REMOVE" or image is None or not {"body", "project", "receipt"} <= image.keys():
        return []
    container, at = image["receipt"]["S"].partition(":")[0], image["received_at"]["N"]
    hour = image["project"]["S"], hour_name(int(at) / 1000)
    return [(hour, (container, at, event["event_id"])) for event in unpack_events(image["body"]["B"])[0]]
