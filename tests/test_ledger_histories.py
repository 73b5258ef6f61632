"""The ledger says what is true of every event, in random histories of real collectors, processors and aggregators.

The queue redelivers, reorders and loses; answers of stores get lost after the effect, and before it; clients send
again; erasures come in between; stream batches are cut anew, and come twice. The truth is kept beside it, by event.
"""

import random
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.aggregate import Aggregator
from chalicelib.collect import Collector
from chalicelib.domain import chunks
from chalicelib.domain.access import Project
from chalicelib.domain.bodies import read_native
from chalicelib.domain.chunks import Chunk, Parcel, decode_message, from_spill, unpack_events
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import Admitter, Mode
from chalicelib.domain.ledger import Ledger, Receipt, Tally
from chalicelib.domain.time_windows import hour_of
from chalicelib.process import Processor
from tests.stores import stream_record

DEMO = Project("demo", Mode.INFER)
NINE = 1_795_251_600_000
HOUR_MS = 3_600_000
CONTRACTS = Contracts({})

Token = tuple[int, str]  # the number of the request, and the event's id


class World:
    """Stores as dictionaries; `chance` makes every choice."""

    def __init__(self, chance: random.Random, *, by_user: bool) -> None:
        self.chance, self.by_user = chance, by_user
        self.requests = 0
        self.sent: list[tuple[int, str]] = []  # what a store has: (number of its request, message)
        self.judged: dict[int, dict[str, int]] = {}  # by request: events that were not to be stored, by term
        self.trouble = 0.0
        self.events: dict[int, tuple[str, list[Token]]] = {}  # by request: hour and tokens
        self.refused: dict[int, tuple[int, int]] = {}  # by request: parcels, and events that no store took
        self.items: dict[tuple[str, str], Chunk] = {}
        self.records: list[tuple[dict[str, Any], Chunk, list[Token]]] = []
        self.put: list[tuple[str, Receipt]] = []  # receipts with their hours
        self.gone: set[tuple[str, bool]] = set()  # users, each in two halves: one of events that are dropped later
        self.dropped: set[Token] = set()
        self.collectors = [self.collector(f"c{n}") for n in range(3)]

    def collector(self, container: str) -> Collector:
        admitter = Admitter(CONTRACTS, new_id=lambda _: "made")
        bucket: Any = SimpleNamespace(put=self.spill, put_gzip=lambda *_: None)
        erased: Any = SimpleNamespace(is_theirs=lambda *_: False)
        table: Any = SimpleNamespace(put=self.put_receipt)
        return Collector(admitter, self, bucket, table, Tally(container), erased)  # type: ignore[arg-type]

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        """The buffer takes some, and gives back others, some of which it has taken nevertheless."""
        back = [parcel for parcel in parcels if self.chance.random() < self.trouble]
        taken = [parcel for parcel in parcels if parcel not in back or self.chance.random() < 0.3]
        self.sent += [(self.requests, parcel.text) for parcel in taken]
        self.refused[self.requests] = len(parcels), sum(parcel.count for parcel in back)
        return back

    def spill(self, _key: str, content: bytes) -> None:
        is_up = self.chance.random() >= self.trouble
        if is_up or self.chance.random() < 0.3:
            self.sent += [(self.requests, parcel.text) for parcel in from_spill(content)]
        if not is_up:
            raise Unavailable("down")

    def put_receipt(self, _project: str, hour: str, receipt: Receipt, _now: int, _name: str = "") -> None:
        self.put.append((hour, receipt))

    def request(self, events: list[Any], at: int) -> bool:
        """A client's; whether it was acknowledged."""
        self.requests += 1
        number, hour = self.requests, hour_of(at)
        self.trouble = self.chance.choice((0.0, 0.0, 0.3, 0.9))
        bad = sum(not event["event_type"] for event in events)
        ids = list(dict.fromkeys(event["event_id"] for event in events if event["event_type"]))
        self.events[number] = hour, [(number, event_id) for event_id in ids]
        self.judged[number] = {"quarantined": bad, "duplicate": len(events) - bad - len(ids)}
        try:
            self.chance.choice(self.collectors).collect(read_native(orjson.dumps(events)), DEMO, at)
        except Unavailable:
            return False
        self.refused.pop(number, None)
        return True

    def deliver(self, number: int, text: str) -> None:
        """The buffer hands it over; the processor may die in the middle."""
        dies_after = self.chance.choice((0, 1, 2, 99, 99, 99, 99))
        written = 0

        def write(those: Iterable[Chunk]) -> None:
            nonlocal written
            for chunk in those:
                if written == dies_after:
                    raise Unavailable("died")
                written += 1
                key = chunk.partition_key, chunk.sort_key
                if (known := self.items.get(key)) == chunk:
                    continue  # DynamoDB makes no record of what is written as it was
                stored, _ = unpack_events(chunk.body)
                tokens = [(number, event["event_id"]) for event in stored]
                name = "MODIFY" if known else "INSERT"
                self.records.append((stream_record(chunk, len(self.records), name=name), chunk, tokens))
                self.items[key] = chunk

        def split(_project: str, events: list[Any]) -> tuple[list[Any], list[Any]]:
            gone = [event for event in events if half_of(event) in self.gone]
            return [event for event in events if half_of(event) not in self.gone], gone

        def put_dropped(project: str, hour: str, receipt: Receipt, now: int, name: str = "") -> None:
            self.put_receipt(project, hour, receipt, now, name)
            events = decode_message(text).events
            self.dropped |= {(number, event["event_id"]) for event in events if half_of(event) in self.gone}

        erased: Any = SimpleNamespace(split=split, is_linked=lambda *_: False)
        events: Any = SimpleNamespace(write=write)
        users: Any = SimpleNamespace(learn=lambda *_: None)
        table: Any = SimpleNamespace(put=put_dropped)
        bucket: Any = None
        processor = Processor(events, users, bucket, erased, table, lambda: NINE / 1000)
        processor.process([{"messageId": "m", "body": text}])

    def ledgers(self, lost: set[int]) -> dict[str, Ledger]:
        """By hour, of batches of the stream that were cut anew now and then, and merged in any order."""
        names: Any = SimpleNamespace(names=lambda _project, types, _known: {each: each for each in types})
        aggregator = Aggregator(CONTRACTS, names, None)  # type: ignore[arg-type]
        stream = [record for n, (record, _, _) in enumerate(self.records) if n not in lost]
        waiting = [(hour, latest) for each in self.collectors for (_, hour, _), latest in each.puts.waiting.items()]
        shares = [(hour, ledger_of(receipt)) for hour, receipt in [*self.put, *waiting]]
        start = 0
        while start < len(stream):
            end = start + self.chance.randint(1, 5)
            if self.chance.random() < 0.3:  # a batch that was given up, yet is there, and comes again in another cut
                shares += folded(aggregator, stream[start : self.chance.randint(start + 1, end)])
                start = max(0, start - self.chance.randint(0, 2))
            shares += folded(aggregator, stream[start:end])
            start = end
        shares += self.chance.choices(shares, k=len(shares) // 4) if shares else []
        self.chance.shuffle(shares)
        found: dict[str, Ledger] = {}
        for hour, share in shares:
            found.setdefault(hour, Ledger()).merge(share)
            found[hour] = Ledger.from_json(orjson.loads(orjson.dumps(found[hour].to_json())))
        return found

    def truth(self, lost: set[int]) -> dict[str, dict[str, int]]:
        """What became of each event, by hour."""
        kinds: dict[Token, str] = dict.fromkeys(self.dropped, "erased")
        came = [record for n, record in enumerate(self.records) if n not in lost]
        for kind, term in (("MODIFY", "duplicate"), ("INSERT", "stored")):
            for record, _, tokens in came:
                if record["eventName"] == kind:
                    kinds |= dict.fromkeys(tokens, term)
        terms = ("received", "stored", "duplicate", "quarantined", "erased", "in_flight", "surplus", "bots")
        found: dict[str, dict[str, int]] = {}
        for number, (hour, tokens) in self.events.items():
            ends = Counter(kinds.get(token, "in_flight") for token in tokens)
            parcels, refused = self.refused.get(number, (0, 0))
            if parcels == 1:  # nothing says that it was refused, and when nothing of it came, that it was there
                if ends["in_flight"] == len(tokens):
                    continue
                refused = 0
            ends["in_flight"] -= min(refused, ends["in_flight"])  # nobody was promised these
            ends += Counter(self.judged[number])
            balance = found.setdefault(hour, dict.fromkeys(terms, 0))
            for term, count in ends.items():
                balance[term] += count
            balance["received"] += ends.total()
        return found


def half_of(event: dict[str, Any]) -> tuple[str, bool]:
    return event["user_id"], event["event_id"][-1] in "024"


def ledger_of(receipt: Receipt) -> Ledger:
    found = Ledger()
    found.note(Receipt.from_text(str(receipt)))
    return found


def folded(aggregator: Aggregator, records: list[dict[str, Any]]) -> list[tuple[str, Ledger]]:
    """As the deltas hold it."""
    shares = aggregator.fold(records)
    return [(hour, Ledger.from_json(share.folding.ledger.to_json())) for (_, hour, _), share in shares.items()]


def some_events(chance: random.Random, name: str) -> list[dict[str, Any]]:
    events = [
        {
            "event_type": chance.choice(("click", "click", "click", "")),
            "event_id": f"{name}-{chance.randrange(6)}",
            "user_id": f"u{chance.randrange(3)}",
            "timestamp": f"2026-11-21T09:00:0{chance.randrange(3)}Z",
        }
        for _ in range(chance.randint(1, 7))
    ]
    good = [event for event in events if event["event_type"]]
    first = {event["event_id"]: event for event in reversed(good)}
    return [first[event["event_id"]] if event["event_type"] else event for event in events]


def history(chance: random.Random, *, by_user: bool) -> World:
    world = World(chance, by_user=by_user)
    asked: list[list[dict[str, Any]]] = []
    for step in range(chance.randint(1, 25)):
        choice = chance.random()
        if choice < 0.35 or not asked:
            asked.append(some_events(chance, f"e{step}"))
            world.request(asked[-1], NINE + step * chance.choice((1, 1000)) + chance.choice((0, 0, HOUR_MS)))
        elif choice < 0.5:
            world.request(chance.choice(asked), NINE + step)
        elif choice < 0.55:
            world.gone.add((f"u{chance.randrange(3)}", chance.random() < 0.5))
        elif world.sent:
            world.deliver(*chance.choice(world.sent))
    return world


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_every_term_is_true_however_often_and_in_whatever_order_things_come(
    chance: random.Random, by_user: bool
) -> None:
    with (
        patch.object(chunks, "CUT_BYTES", chance.choice((450, 900, 10**6))),
        patch.object(chunks, "MAX_MESSAGE_BYTES", chance.choice((700, 10**6))),
        patch.object(chunks, "SMALL_BYTES", 10),
    ):
        world = history(chance, by_user=by_user)
    lost = {n for n in range(len(world.records)) if chance.random() < 0.1}

    found = {hour: ledger.balance() for hour, ledger in world.ledgers(lost).items()}

    assert {hour: balance for hour, balance in found.items() if balance["received"]} == {
        hour: balance for hour, balance in world.truth(lost).items() if balance["received"]
    }
