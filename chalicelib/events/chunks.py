"""Messages and chunks: how events travel through the buffer and lie in the hot store.

A message is what one request brought: events of one project. It travels in parcels, almost always one; where the
buffer keeps order by user, one for each user. A chunk is the share of one user in one message, and one item of the
events table. Its key depends only on what the client sent, so a redelivered message or a retried request rewrites the
same item, whichever buffer it came through.

What is too much for one item is cut, by `cut`, which looks at nothing but what the client sent either: not at receipts,
enrichment or compressed sizes, which the next try changes. Messages are cut where chunks are, so a chunk is the same
whether its message travelled in one piece or in several.
"""

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, groupby
from operator import itemgetter
from typing import cast

import orjson
from isal import isal_zlib
from isal.igzip_lib import IsalError

from chalicelib.base import values
from chalicelib.base.spans import Span, join
from chalicelib.base.time_windows import HOUR_MS, iso_ms, parse_ms
from chalicelib.events.enrichment import NOBODY, Client
from chalicelib.events.events import StoredEvent, user_of
from chalicelib.events.pins import UNSURE
from chalicelib.rollups.ledger import Receipt

# What decoding raises of content that is not ours; the types that isal publishes call its error an instance.
UNREADABLE = (ValueError, KeyError, TypeError, cast("type[Exception]", IsalError))
OURS = frozenset({"occurred_at", "schema_version", "enrichment", UNSURE})  # in a stored event; the rest is the client's
_RELIED_ON, _OCCURRED_AT = itemgetter("event_id", "event_type", "occurred_at"), itemgetter("occurred_at")
MAX_MESSAGE_BYTES = 1024 * 1024  # SQS, since August 2025; a record of a Kinesis stream with its key, as it is made
MAX_KEY_BYTES = 32
MAX_CHUNK_BYTES = 350 * 1024  # DynamoDB allows items of 400 KB, names and keys included
# Of a chunk's events as they were sent, so that it fits however badly it is compressed: what we add repeats what was
# sent, once at most, and says some fixed things, for which each event is taken to be larger.
CUT_BYTES, ADDED_BYTES = MAX_CHUNK_BYTES // 2, 256
MAX_PLAIN_BYTES = 1024 * 1024  # of a chunk inflated; those that are cut now have half of it
MAX_CHUNK_VALUES = 200_000  # 20 MB as Python objects, of which a stage holds one chunk at a time; CUT_BYTES hold fewer
UNCOUNTED_BYTES = 4096  # of a chunk whose values are not counted, but bounded by its length
LAST_KEY_MS = 32_503_679_999_999  # 2999-12-31: the streams' filters pass sort keys that begin with 1 or 2
SMALL_BYTES = 4096  # of a message that is not compressed: it would cost no less, and a fifteenth of the request's time
COMPRESSION_LEVEL = 1  # in zlib's format; a higher level takes longer for next to nothing


@dataclass(frozen=True, slots=True)
class Message:
    """Events of one project, received together. `received_ms` is Unix milliseconds."""

    project: str
    received_ms: int
    events: list[StoredEvent]
    receipt: Receipt | None = None
    client: Client = NOBODY
    apart: bool = False  # each event is a chunk: the events were not sent together, and may come in other company

    def some(self, events: list[StoredEvent], later: int) -> "Message":
        """Some of the events; `later` of the others go out after them, so the receipt does not count those yet."""
        receipt = self.receipt and replace(self.receipt, received=self.receipt.received - later)
        return replace(self, events=events, receipt=receipt)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One user's events of one message. `user` is None for events that name nobody."""

    project: str
    user: str | None
    sort_key: str
    received_ms: int
    receipt: Receipt | None
    count: int
    body: bytes  # compressed JSON: an array of stored events
    position: int | None = None  # of the first event in the count of the receipt's container

    @property
    def partition_key(self) -> str:
        """`project#user`; chunks of nobody are spread over 256 partitions, `?xx#project`, which no user id can name."""
        return f"{self.project}#{self.user}" if self.user else f"?{self.sort_key[-2:]}#{self.project}"


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the buffer carries as one: a message's text, and how many events it holds.

    `key` says whose they are to a buffer that keeps order by user; empty: of several users.
    """

    text: str
    count: int
    key: str = ""


def pack(message: Message, *, by_user: bool) -> list[Parcel]:
    """The message as parcels that each fit the buffer, in the order to send them in: as far as their receipts count."""
    if not by_user:
        return [Parcel(text, count) for text, count in encode_message(message)]
    parcels: list[Parcel] = []
    later = len(message.events)
    for user, events in _by_user(message):
        later -= len(events)
        texts = encode_message(message.some(events, later))
        parcels += [Parcel(text, count, _key(message.project, user, text)) for text, count in texts]
    return parcels


def _key(project: str, user: str | None, text: str) -> str:
    """The same for the same user; events of nobody are spread. A hash, because user ids may be longer than keys."""
    owner = f"{project}#{user}" if user else f"{project}#?{text}"
    return blake2b(owner.encode(), digest_size=MAX_KEY_BYTES // 2).hexdigest()


def to_spill(parcels: Iterable[Parcel]) -> bytes:
    """Parcels as one object: a line each. Their boundaries are kept, for they decide which chunks there will be."""
    return "\n".join(f"{parcel.key} {parcel.text}" for parcel in parcels).encode()


def from_spill(content: bytes) -> list[Parcel]:
    """Return the inverse of `to_spill`, but for the counts."""
    lines = (line.rpartition(" ") for line in content.decode().splitlines())
    return [Parcel(text, 0, key) for key, _, text in lines]


def encode_message(message: Message) -> list[tuple[str, int]]:
    """Return the message as texts that each fit the buffer, with how many events each holds; almost always one."""
    document = {"project": message.project, "received_at": message.received_ms, "events": message.events}
    if message.receipt:
        document["receipt"] = str(message.receipt)
    if message.client is not NOBODY:
        document["client"] = message.client.to_json()
    if message.apart:
        document["apart"] = True
    plain = orjson.dumps(document)
    level = COMPRESSION_LEVEL if len(plain) > SMALL_BYTES else 0
    text = b64encode(isal_zlib.compress(plain, level)).decode()
    fits = len(text) <= MAX_MESSAGE_BYTES - MAX_KEY_BYTES
    groups = [] if fits else [group for events in _apart(message) for group in cut(events)]
    if len(groups) < 2:  # one alone is never as long
        return [(text, len(message.events))]
    middle = len(groups) // 2
    first, second = list(chain(*groups[:middle])), list(chain(*groups[middle:]))
    return encode_message(message.some(first, len(second))) + encode_message(message.some(second, 0))


def decode_message(text: str | bytes) -> Message:
    """Return the inverse of `encode_message`; raises ValueError for what is no message."""
    try:
        document = orjson.loads(isal_zlib.decompress(b64decode(text, validate=True)))
        receipt = Receipt.from_text(document["receipt"]) if "receipt" in document else None
        client = Client(**document["client"]) if "client" in document else NOBODY
        events, apart = _checked(document["events"]), "apart" in document
        return Message(document["project"], document["received_at"], events, receipt, client, apart)
    except UNREADABLE as error:
        raise ValueError(f"not a message of ours: {error!r}") from error


def chunks_of(message: Message, gone: Sequence[StoredEvent] = ()) -> Iterator[Chunk]:
    """The message's events by user, but for those that are `gone`: these part a chunk, for each keeps its position."""
    if gone:
        for events, position, is_gone in _runs(message, gone):
            if not is_gone:
                yield _chunk(message, events, orjson.dumps(events), position)
        return
    position = _first_position(message)
    for events in _apart(message):
        plain = orjson.dumps(events)
        if len(plain) + ADDED_BYTES * len(events) <= CUT_BYTES:
            yield _chunk(message, events, plain, position)
            position = _after(position, events)
        else:
            for group in cut(events):
                yield _chunk(message, group, orjson.dumps(group), position)
                position = _after(position, group)


def positions_of(message: Message, gone: Iterable[StoredEvent]) -> tuple[Span, ...]:
    """Return the positions of the events that are `gone`; none where the message's receipt gives no positions."""
    runs = _runs(message, gone)
    return tuple(join((at, at + len(events)) for events, at, is_gone in runs if is_gone and at is not None))


def _chunk(message: Message, events: list[StoredEvent], plain: bytes, position: int | None) -> Chunk:
    return Chunk(
        project=message.project,
        user=user_of(events[0]),
        sort_key=_sort_key(events, message.received_ms),
        received_ms=message.received_ms,
        receipt=message.receipt,
        count=len(events),
        body=isal_zlib.compress(plain, COMPRESSION_LEVEL),
        position=position,
    )


def cut(events: list[StoredEvent]) -> list[list[StoredEvent]]:
    """Return a user's events in the groups that become chunks: almost always one.

    The same events make the same groups, in whatever order they come and whatever we made of them. So do some of the
    groups by themselves. They are filled one after the other, in the order of the client's own times.
    """
    sent = ({name: event[name] for name in event.keys() - OURS} for event in events)
    weights = [ADDED_BYTES + len(orjson.dumps(each)) for each in sent]
    if sum(weights) <= CUT_BYTES:
        return [events]
    groups: list[list[StoredEvent]] = []
    left = 0
    for weight, event in sorted(zip(weights, events, strict=True), key=lambda pair: _place(pair[1])):
        if weight > left:
            groups.append([])
            left = CUT_BYTES
        groups[-1].append(event)
        left -= weight
    return groups


def _runs(message: Message, gone: Iterable[StoredEvent]) -> Iterator[tuple[list[StoredEvent], int | None, bool]]:
    """Events of a chunk that follow one another and are all gone or all there, and the position of the first.

    Chunks are cut before anything is taken away, so an erasure changes neither positions nor what it takes nothing of.
    """
    position = _first_position(message)
    without = set(map(id, gone))
    for group in chain.from_iterable(map(cut, _apart(message))):
        for is_gone, run in groupby(group, lambda event: id(event) in without):
            events = list(run)
            yield events, position, is_gone
            position = _after(position, events)


def _first_position(message: Message) -> int | None:
    """Return where the message's events begin in the count of its receipt's container, of which they are the last.

    They stand in it as they lie in chunks: user by user, and as `cut` has them. None where it counts fewer events.
    """
    position = message.receipt.received - len(message.events) if message.receipt else -1
    return position if position >= 0 else None


def _after(position: int | None, events: list[StoredEvent]) -> int | None:
    return None if position is None else position + len(events)


def _by_user(message: Message) -> Iterable[tuple[str | None, list[StoredEvent]]]:
    by_user: dict[str | None, list[StoredEvent]] = {}
    for event in message.events:
        by_user.setdefault(user_of(event), []).append(event)
    return by_user.items()


def unpack_events(body: bytes) -> tuple[list[StoredEvent], int]:
    """The events of a chunk's body, and their size as JSON; raises ValueError for what is no chunk, or too large."""
    plain = unpack(body)
    return events_of(plain), len(plain)


_LEAST_BYTES = values.LEAST_BYTES * MAX_CHUNK_VALUES  # of a text that may have more values


def unpack(body: bytes) -> bytes:
    """A chunk's events as JSON, not yet parsed; raises ValueError for what is no chunk, or would fill the memory."""
    inflater = isal_zlib.decompressobj()
    try:
        plain = inflater.decompress(body, MAX_PLAIN_BYTES + 1)
    except UNREADABLE as error:
        raise ValueError(f"not a chunk of ours: {error!r}") from error
    if len(plain) > MAX_PLAIN_BYTES:
        raise ValueError(f"the chunk has over {MAX_PLAIN_BYTES} bytes of JSON, which is the limit")
    if not inflater.eof:
        raise ValueError("not a chunk of ours: it ends too early")
    if len(plain) >= _LEAST_BYTES and values.exceed(plain, MAX_CHUNK_VALUES):
        raise ValueError(f"the chunk has {values.count(plain)} JSON values; the limit is {MAX_CHUNK_VALUES}")
    return plain


def events_of(plain: bytes) -> list[StoredEvent]:
    """Return the events of what `unpack` returned; raises ValueError for what is no chunk."""
    try:
        return _checked(orjson.loads(plain))
    except UNREADABLE as error:
        raise ValueError(f"not a chunk of ours: {error!r}") from error


def _checked(events: list[StoredEvent]) -> list[StoredEvent]:
    """Return the events, if each has what the stages rely on; else one that lacks it would fail its whole batch."""
    if events.__class__ is not list:
        raise TypeError(f"the events are {type(events).__name__}, not a list")
    deque(map(_RELIED_ON, events), 0)
    sum(map(_OCCURRED_AT, events))
    return events


def _apart(message: Message) -> Iterator[list[StoredEvent]]:
    """Yield the events of each user, or each event by itself."""
    for _, events in _by_user(message):
        yield from [[event] for event in events] if message.apart else [events]


def _place(event: StoredEvent) -> tuple[int, str, str]:
    """Return where an event stands among a user's, by what the client sent alone."""
    timestamp = event.get("timestamp")
    return -1 if timestamp is None else parse_ms(timestamp), str(timestamp), event["event_id"]


def _sort_key(events: list[StoredEvent], received_ms: int) -> str:
    """First client time, then a hash of the ids.

    Events without a client time stand under the hour of receipt, so that a retry within the hour finds its item.
    """
    times = [parse_ms(event["timestamp"]) for event in events if "timestamp" in event]
    first_ms = min(times, default=received_ms - received_ms % HOUR_MS)
    ids = orjson.dumps(sorted(event["event_id"] for event in events))
    return f"{iso_ms(min(max(first_ms, 0), LAST_KEY_MS))}#{blake2b(ids, digest_size=12).hexdigest()}"
