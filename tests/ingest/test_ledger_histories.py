"""The ledger says what is true of every event, in random histories of real collectors, processors and aggregators.

The queue redelivers, reorders and loses; answers of stores get lost after the effect, and before it; containers die
with what they had not put; clients send again, in the same company and in another; erasures come in between, and are
known late; stream batches are cut anew, come twice, and are lost. The truth is kept beside it, by event.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson
from botocore.exceptions import EndpointConnectionError
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.access.access import Project
from chalicelib.base.errors import Unavailable
from chalicelib.base.time_windows import hour_of
from chalicelib.events import chunks
from chalicelib.events.chunks import Chunk, Parcel, decode_message, from_spill, unpack_events
from chalicelib.events.contracts import Contracts
from chalicelib.events.enrichment import NOBODY
from chalicelib.events.events import Admitter, Mode
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.bodies import read_native
from chalicelib.ingest.collect import Collector
from chalicelib.ingest.process import Processor
from chalicelib.quarantine.replay import Replayer
from chalicelib.rollups.ledger import Ledger, Receipt, Tally
from tests.stores import stream_record

DEMO = Project("demo", Mode.INFER)
NINE = 1_795_251_600_000
HOUR_MS = 3_600_000
CONTRACTS = Contracts({})
BOT = {"userAgent": "Googlebot/2.1 (+http://www.google.com/bot.html)"}
TERMS = ("received", "stored", "duplicate", "quarantined", "erased", "in_flight", "surplus", "bots")

Token = tuple[int, str]  # the number of the request, and the event's id


class Died(BaseException):
    """The process is gone, with what it had in memory."""


@dataclass
class Asked:
    """One request: the container that took it, and its count before the events and after them."""

    hour: str
    tokens: list[Token]
    judged: Counter[str]  # events that were not to be stored, by term
    container: str
    before: int
    after: int
    refused: int = 0  # events that no store took, as the client was told
    says_so: bool = False  # whether that was put


@dataclass
class Came:
    """A record of the events table's stream."""

    record: dict[str, Any]
    tokens: list[Token]
    hour: str
    receipt: Receipt
    bots: int

    @property
    def is_new(self) -> bool:
        return bool(self.record["eventName"] == "INSERT")


@dataclass
class Share:
    """What a delta holds of the ledger: of an hour, from some records."""

    hour: str
    ledger: Ledger
    records: list[Came]


class World:
    """Stores as dictionaries; `chance` makes every choice."""

    def __init__(self, chance: random.Random, *, by_user: bool) -> None:
        self.chance, self.by_user = chance, by_user
        self.number = self.containers = 0
        self.sent: list[tuple[int, str]] = []  # what a store has: (number of its request, message)
        self.asked: dict[int, Asked] = {}
        self.trouble = 0.0
        self.back = 0  # events of the last request that the buffer did not take
        self.parcels = 0  # of the last request
        self.puts_fail = False  # of the last request
        self.items: dict[tuple[str, str], Chunk] = {}
        self.came: list[Came] = []
        self.put: dict[tuple[str, str], Receipt] = {}  # by hour and name
        self.gone: list[tuple[str, bool]] = []  # users, each in two halves: one of events that are dropped later
        self.dropped: set[Token] = set()
        self.collectors = [self.collector() for _ in range(3)]
        admitter, bucket, table = self.parts()
        self.replayer = Replayer(admitter, self.collectors[0].put, bucket, table, Tally("replay", 9), lambda: 0.0)

    def parts(self) -> tuple[Admitter, Any, Any]:
        bucket = SimpleNamespace(put=self.spill, put_gzip=lambda *_: None)
        return Admitter(CONTRACTS, new_id=lambda _: "made"), bucket, SimpleNamespace(put=self.put_receipt)

    def collector(self) -> Collector:
        self.containers += 1
        admitter, bucket, table = self.parts()
        erased: Any = SimpleNamespace(is_theirs=lambda *_: False)
        flags: Any = SimpleNamespace(flag=lambda *_: None)
        return Collector(admitter, self, bucket, table, Tally(f"c{self.containers}"), erased, flags)  # type: ignore[arg-type]

    # Stores

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        """The buffer takes some, and gives back others, some of which it has taken nevertheless."""
        back = []
        self.parcels = len(parcels)
        for parcel in parcels:
            fails = self.chance.random() < self.trouble
            if not fails or self.chance.random() < 0.3:
                self.sent.append((self.number, parcel.text))
            if fails:
                back.append(parcel)
            if self.chance.random() < self.trouble / 20:
                raise Died
        self.back = sum(parcel.count for parcel in back)
        return back

    def spill(self, _key: str, content: bytes) -> None:
        is_up = self.chance.random() >= self.trouble
        if is_up or self.chance.random() < 0.3:
            self.sent += [(self.number, parcel.text) for parcel in from_spill(content)]
        if not is_up:
            raise Unavailable("down")

    def put_receipt(self, _project: str, hour: str, receipt: Receipt, _now: int, name: str = "") -> None:
        fails = self.chance.random() < self.trouble / 2
        self.puts_fail |= fails
        if not fails or self.chance.random() < 0.5:
            key = hour, name or receipt.container
            known = self.put.get(key)
            if known is None or known.counted() <= receipt.counted():
                self.put[key] = Receipt.from_text(str(receipt))
        if fails:
            raise EndpointConnectionError(endpoint_url="nowhere")

    # What is done

    def request(self, events: list[Any], at: int) -> None:
        """A client's, to a container that may die of it."""
        where = self.chance.randrange(len(self.collectors))
        one = self.collectors[where]
        ids = list(dict.fromkeys(event["event_id"] for event in events if event["event_type"]))
        bad = sum(not event["event_type"] for event in events)
        asked = self.begin(hour_of(at), ids, quarantined=bad, duplicate=len(events) - bad - len(ids))
        try:
            one.collect(read_native(orjson.dumps(events)), DEMO, at)
        except Unavailable:
            asked.refused = self.back
            asked.says_so = self.parcels > 1 and not self.puts_fail
        except Died:
            self.collectors[where] = self.collector()
        self.end(asked, one.tally)
        if self.chance.random() < 0.05:
            self.collectors[where] = self.collector()

    def replay(self, events: list[Any], at: int) -> None:
        """An operator's: each event by itself, in the hour in which it was received first."""
        admission = self.replayer.admitter.admit(events, mode=Mode.INFER, received_ms=at)
        if not admission.events:
            return
        file: Any = SimpleNamespace(project="demo", received_ms=at, client=NOBODY)
        trial: Any = SimpleNamespace(events=admission.events, taken=admission.event_ids)
        ids = [event["event_id"] for event in admission.events]
        asked = self.begin(hour_of(at), ids, duplicate=len(admission.event_ids) - len(ids))
        died = False
        try:
            self.replayer._bring_in(file, trial, at)
        except Unavailable:
            asked.refused = self.back
            asked.says_so = not self.puts_fail
        except Died:
            died = True
        self.end(asked, self.replayer.tally)
        if died:
            self.containers += 1
            self.replayer.tally.idle.clear()
            self.replayer.tally.container = f"replay{self.containers}"

    def begin(self, hour: str, ids: list[str], **judged: int) -> Asked:
        self.number += 1
        self.trouble = self.chance.choice((0.0, 0.0, 0.3, 0.9))
        self.back = 0
        self.puts_fail = False
        asked = Asked(hour, [(self.number, each) for each in ids], Counter(judged), "", 0, 0)
        self.asked[self.number] = asked
        return asked

    def end(self, asked: Asked, tally: Tally) -> None:
        total = tally.idle[-1].by_hour["demo", asked.hour]
        asked.container, asked.after = total.container, total.received
        asked.before = asked.after - len(asked.tokens)

    def deliver(self, number: int, text: str) -> None:
        """The buffer hands it over; the processor may die in the middle, and know of old erasures only."""
        dies_after = self.chance.choice((0, 1, 2, 99, 99, 99, 99))
        self.trouble = self.chance.choice((0.0, 0.0, 0.3))
        gone = self.gone[: self.chance.choice((len(self.gone), self.chance.randint(0, len(self.gone))))]
        written = 0

        def write(those: Iterable[Chunk]) -> Any:
            nonlocal written
            refused = {}
            for place, chunk in enumerate(those):
                if written == dies_after:
                    refused[place] = "down"
                    continue
                written += 1
                key = chunk.partition_key, chunk.sort_key
                if (known := self.items.get(key)) == chunk:
                    continue  # DynamoDB makes no record of what is written as it was
                stored, _ = unpack_events(chunk.body)
                record = stream_record(chunk, len(self.came), name="MODIFY" if known else "INSERT")
                tokens = [(number, event["event_id"]) for event in stored]
                bots = sum(event.get("enrichment", {}).get("bot", False) for event in stored)
                assert chunk.receipt
                self.came.append(Came(record, tokens, hour_of(chunk.received_ms), chunk.receipt, bots))
                self.items[key] = chunk
            return SimpleNamespace(refused=refused, invalid={})

        def split(_project: str, events: list[Any]) -> tuple[list[Any], list[Any]]:
            return [e for e in events if half_of(e) not in gone], [e for e in events if half_of(e) in gone]

        def put_dropped(project: str, hour: str, receipt: Receipt, now: int, name: str = "") -> None:
            try:
                self.put_receipt(project, hour, receipt, now, name)
            finally:
                if (hour, name) in self.put:
                    self.dropped |= dropped

        erased: Any = SimpleNamespace(split=split, is_linked=lambda *_: False)
        events: Any = SimpleNamespace(write=write)
        pins = SimpleNamespace(put_item=lambda **_: {})
        users: Any = SimpleNamespace(learn=lambda *_: None, client=pins, name="events")
        table: Any = SimpleNamespace(put=put_dropped)
        bucket: Any = None
        dropped = {(number, event["event_id"]) for event in decode_message(text).events if half_of(event) in gone}
        processor = Processor(events, users, bucket, erased, table, lambda: NINE / 1000)
        if not processor.process([{"messageId": "m", "body": text}]):
            self.dropped |= dropped

    def erase(self) -> None:
        """A user is to be forgotten; what is there of them is deleted now and then."""
        user = f"u{self.chance.randrange(3)}"
        self.gone.append((user, self.chance.random() < 0.5))
        if self.chance.random() < 0.5:
            self.items = {key: chunk for key, chunk in self.items.items() if chunk.user != user}

    # What the ledger says

    def shares(self, lost: set[int]) -> list[Share]:
        """Deltas, of batches of the stream that are cut anew now and then; some of them count twice."""
        stream = [came for number, came in enumerate(self.came) if number not in lost]
        shares: list[Share] = []
        start = 0
        while start < len(stream):
            end = start + self.chance.randint(1, 5)
            if self.chance.random() < 0.3:  # a batch that was given up, yet is there, and comes again in another cut
                shares += folded(stream[start : self.chance.randint(start + 1, end)])
                start = max(0, start - self.chance.randint(0, 2))
            shares += folded(stream[start:end])
            start = end
        shares += self.chance.choices(shares, k=len(shares) // 4) if shares else []
        self.chance.shuffle(shares)
        return shares

    def ledgers(self, shares: list[Share]) -> dict[str, Ledger]:
        """By hour, merged in any order."""
        parts = [*((share.hour, share.ledger) for share in shares)]
        parts += [(hour, ledger_of(receipt)) for (hour, _), receipt in self.put.items()]
        self.chance.shuffle(parts)
        found: dict[str, Ledger] = {}
        for hour, part in parts:
            found.setdefault(hour, Ledger()).merge(part)
            found[hour] = Ledger.from_json(orjson.loads(orjson.dumps(found[hour].to_json())))
        return found

    def truth(self, shares: list[Share]) -> dict[str, dict[str, int]]:
        """What became of each event that anything tells of, by hour."""
        kinds: dict[Token, str] = dict.fromkeys(self.dropped, "erased")
        for term, is_new in (("duplicate", False), ("stored", True)):
            for came in (came for share in shares for came in share.records if came.is_new == is_new):
                kinds |= dict.fromkeys(came.tokens, term)
        told, refusals = self.told(shares)
        found: dict[str, Counter[str]] = {}
        for asked in self.asked.values():
            balance = found.setdefault(asked.hour, Counter(dict.fromkeys(TERMS, 0)))
            most = told.get((asked.hour, asked.container), -1)
            ends = Counter(kinds.get(token, "in_flight") for token in asked.tokens)
            ends["in_flight"] -= min(max(asked.after - most, 0), len(asked.tokens))  # nothing tells of these
            if (asked.hour, asked.container) in refusals:
                ends["in_flight"] -= min(asked.refused, ends["in_flight"])  # nobody was promised these
            if most >= asked.before:
                ends += asked.judged
            balance.update(ends)
            balance["received"] += ends.total()
        for share in shares:
            for came in (came for came in share.records if came.is_new):
                found[share.hour]["surplus"] += len(came.tokens)
                found[share.hour]["bots"] += came.bots
        for balance in found.values():
            balance["surplus"] -= balance["stored"]
        return {hour: dict(balance) for hour, balance in found.items() if balance["received"]}

    def told(self, shares: list[Share]) -> tuple[dict[tuple[str, str], int], set[tuple[str, str]]]:
        """By hour and container how many events are known to have been received, and where some were refused."""
        most: dict[tuple[str, str], int] = {}
        receipts = [(share.hour, came.receipt) for share in shares for came in share.records]
        receipts += [(hour, receipt) for (hour, _), receipt in self.put.items()]
        said = (asked for asked in self.asked.values() if asked.says_so)
        receipts += [(asked.hour, Receipt(asked.container, asked.after, refused=asked.refused)) for asked in said]
        for hour, receipt in receipts:
            key = hour, receipt.container
            most[key] = max(most.get(key, 0), receipt.received)
        return most, {(hour, receipt.container) for hour, receipt in receipts if receipt.refused}


def half_of(event: dict[str, Any]) -> tuple[str, bool]:
    return event["user_id"], event["event_id"][-1] in "024"


def ledger_of(receipt: Receipt) -> Ledger:
    found = Ledger()
    found.note(receipt)
    return found


def folded(batch: list[Came]) -> list[Share]:
    """As the deltas hold it."""
    aggregator = Aggregator(CONTRACTS, None, None)  # type: ignore[arg-type]
    found: dict[str, Ledger] = {}
    for (_, hour, _), share in aggregator.fold([came.record for came in batch]).items():
        found.setdefault(hour, Ledger()).merge(Ledger.from_json(share.folding.ledger.to_json()))
    return [Share(hour, ledger, [came for came in batch if came.hour == hour]) for hour, ledger in found.items()]


def some_events(chance: random.Random, name: str) -> list[dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    events = []
    for _ in range(chance.randint(1, 7)):
        event: dict[str, Any] = {
            "event_type": chance.choice(("click", "click", "click", "")),
            "event_id": f"{name}-{chance.randrange(6)}",
            "user_id": f"u{chance.randrange(3)}",
            "timestamp": f"2026-11-21T09:00:0{chance.randrange(3)}Z",
            **({"context": BOT} if chance.random() < 0.1 else {}),
        }
        events.append(kept.setdefault(event["event_id"], event) if event["event_type"] else event)
    return events


def history(chance: random.Random, *, by_user: bool) -> World:
    world = World(chance, by_user=by_user)
    sent: list[tuple[list[dict[str, Any]], int]] = []
    for step in range(chance.randint(1, 25)):
        choice = chance.random()
        if choice < 0.3 or not sent:
            at = NINE + step * chance.choice((1, 1000)) + chance.choice((0, 0, HOUR_MS))
            sent.append((some_events(chance, f"e{step}"), at))
            world.request(*sent[-1])
        elif choice < 0.4:
            world.request(chance.choice(sent)[0], NINE + step)
        elif choice < 0.45:
            events = [*chance.choice(sent)[0], *chance.choice(sent)[0]]
            world.request(chance.sample(events, chance.randint(1, len(events))), NINE + step)
        elif choice < 0.5:
            world.replay(*chance.choice(sent))
        elif choice < 0.55:
            world.erase()
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
    shares = world.shares({number for number in range(len(world.came)) if chance.random() < 0.1})

    found = {hour: ledger.balance() for hour, ledger in world.ledgers(shares).items()}

    assert {hour: balance for hour, balance in found.items() if balance["received"]} == world.truth(shares)
