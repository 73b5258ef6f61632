"""From events to rollups: the one place that says how an event is counted.

Of each event the columns that its contract names are put down by type, and then folded column by column, straight into
the form that is encoded: the fold runs once for every event that is stored, and objects on the way would cost more than
the counting. So what memory holds grows with what is counted, never with what else the events carry.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import msgspec
import orjson

from chalicelib.base.sums import exact_sum
from chalicelib.rollups.codec import columns_of
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.rollups import MAX_DIMENSION_VALUES, OTHER, RollupSpec
from chalicelib.rollups.sketches import bucket_of

MAX_DIMENSION_LENGTH = 128  # characters of a value that are kept
NOBODY = -1  # the number of an event without a user
NOTHING: Mapping[str, Any] = {}


class _Counted(TypedDict):
    """What is read of an event to be counted: not its context, nor what else a client sends, which is most of it."""

    event_id: Any  # not counted, but relied on by other readers, who refuse an event without one: so does this
    event_type: Any
    occurred_at: int | float | bool  # what adds up, as for the other readers; ours are integers
    properties: NotRequired[Any]
    enrichment: NotRequired[Any]


_COUNTED = msgspec.json.Decoder(list[_Counted])

Names = Callable[[Sequence[str]], Mapping[str, str]]  # of types, the most frequent first: under which each is counted


def counted_events(plain: bytes) -> list[dict[str, Any]]:
    """What is counted of a chunk's events; raises ValueError for what is no chunk. Takes half the time of all of it."""
    try:
        found: list[Any] = _COUNTED.decode(plain)
    except RecursionError as error:  # of what is nested deeper than any JSON that we write
        raise ValueError(f"not a chunk of ours: {error}") from error
    return found


class Rows:
    """The events of one type, each as a place in lists of what is counted of it."""

    __slots__ = ("_dimensions", "_measures", "_put_minute", "_put_user", "measures", "minutes", "users", "values")

    def __init__(self, spec: RollupSpec) -> None:
        self.users: list[Any] = []  # who did it, as the one who adds numbers or names them
        self.minutes: list[int] = []
        self.values: dict[str, dict[str, list[int]]] = {name: {} for name in spec.dimensions}  # the places of each
        # In order of their names, as the codec reads them: a cell names no measure.
        self.measures: dict[str, list[float | None]] = {name: [] for name in sorted(spec.measures)}
        # `add` runs for every event, and finds these at once.
        self._put_user, self._put_minute = self.users.append, self.minutes.append
        self._measures, self._dimensions = [*self.measures.items()], [*self.values.items()]

    def add(self, event: Mapping[str, Any], user: Any) -> None:
        """Put down what is counted of a stored event."""
        place = len(self.users)
        self._put_user(user)
        self._put_minute(event["occurred_at"] // 60_000 % 60)
        properties = event.get("properties") or NOTHING
        for name, numbers in self._measures:
            number = properties.get(name)  # as a float: sums of integers could pass 64 bits; and -0.0 as 0.0
            numbers.append((float(number) or 0.0) if number.__class__ is float or number.__class__ is int else None)
        enrichment = event.get("enrichment") or NOTHING
        for name, groups in self._dimensions:
            value = properties.get(name)
            if value is None:
                value = enrichment.get(name)
                if value is None:
                    continue
            if value.__class__ is not str:
                value = dimension_text(value)
            group = groups.get(value)
            if group is not None:
                group.append(place)
            else:
                groups.setdefault(value[:MAX_DIMENSION_LENGTH], []).append(place)

    def __len__(self) -> int:
        """Return how many events there are."""
        return len(self.users)

    def columns(self) -> "list[Column]":
        """The measures that have a number anywhere."""
        return [
            Column(name, numbers, [None if number is None else bucket_of(number) for number in numbers])
            for name, numbers in self.measures.items()
            if any(number is not None for number in numbers)
        ]


@dataclass(slots=True)
class Column:
    """A measure's number at each place, and its quantile bucket; None where there is no number."""

    name: str
    values: Sequence[Any]
    buckets: Sequence[Any]

    def one(self, place: int) -> list[Any] | None:
        """Return the values of one event, as they are encoded."""
        value = self.values[place]
        return None if value is None else [1, value, value, value, [[self.buckets[place]], [1]]]

    def some(self, places: Sequence[int]) -> list[Any] | None:
        """Return the values of some events."""
        values, buckets = self.values, self.buckets
        return _measure([values[i] for i in places], [buckets[i] for i in places])

    def all(self) -> list[Any] | None:
        """Return the values of all events."""
        return _measure(self.values, self.buckets)


@dataclass(slots=True)
class Folding:
    """The events of one project and hour on their way to a document of `rollup_codec`, and the hour's ledger.

    The same events give the same document, in whatever order they come.
    """

    rows: dict[str, Rows] = field(default_factory=dict)  # by event type
    users: dict[bytes, int] = field(default_factory=dict)  # hash -> its number in `rows`
    ledger: Ledger = field(default_factory=Ledger)

    def user(self, user_hash: bytes | None) -> int:
        """Return the number that stands for a user in `add`."""
        return NOBODY if user_hash is None else self.users.setdefault(user_hash, len(self.users))

    def add(self, event_type: str, event: Mapping[str, Any], user: int, spec: RollupSpec) -> None:
        """Count one stored event."""
        self.rows_of(event_type, spec).add(event, user)

    def rows_of(self, event_type: str, spec: RollupSpec) -> Rows:
        """Return where the events of a type gather, for callers that have many of them."""
        found = self.rows.get(event_type)
        if found is None:
            found = self.rows[event_type] = Rows(spec)
        return found

    def types(self) -> list[str]:
        """Return the event types, the most frequent first."""
        return sorted(self.rows, key=lambda name: (-len(self.rows[name]), name))

    def document(self, names: Names | None = None) -> dict[str, Any]:
        """Return the rollups as `rollup_codec.encode_document` takes them; `names` says under which names types count.

        Types that it calls OTHER are counted together.
        """
        ordered = sorted(self.users)
        numbers = [NOBODY] * (len(ordered) + 1)  # the last is for NOBODY
        for number, user_hash in enumerate(ordered):
            numbers[self.users[user_hash]] = number
        named = names(self.types()) if names else {}
        told = {name: _fold(rows, numbers) for name, rows in self.rows.items() if named.get(name) != OTHER}
        document: dict[str, Any] = {
            "users": b64encode(b"".join(ordered)).decode(),
            "types": told,
            "ledger": self.ledger.to_json(),
        }
        if len(told) < len(self.rows):
            others = [rows for name, rows in self.rows.items() if name not in told]
            together = Rows(RollupSpec())
            for rows in others:
                together.users += rows.users
                together.minutes += rows.minutes
            told[OTHER] = _fold(together, numbers)
            document["o"] = max(map(len, others))
        return document


def _fold(rows: Rows, numbers: Sequence[int]) -> dict[str, Any]:
    users = [numbers[user] for user in rows.users]
    columns = rows.columns()
    rollup: dict[str, Any] = {"n": len(rows), "u": _distinct(users), "t": columns_of(Counter(rows.minutes))}
    if columns:
        rollup["m"] = {column.name: column.all() for column in columns}
    found = {name: groups for name, groups in rows.values.items() if groups}
    if not found:
        return rollup
    bounds = {}
    for name, groups in found.items():
        if len(groups) > MAX_DIMENSION_VALUES:
            found[name], bounds[name] = _most_frequent(groups)
        elif OTHER in groups:
            bounds[name] = [0]
    rollup["d"] = {
        name: {value: _cell(places, users, columns) for value, places in groups.items()}
        for name, groups in found.items()
    }
    if bounds:
        rollup["x"] = bounds
    return rollup


def _most_frequent(groups: dict[str, list[int]]) -> tuple[dict[str, list[int]], list[int]]:
    """The values that are kept, the others as OTHER, and how many events one of those has at most."""
    others = groups.get(OTHER, [])
    ranked = sorted((pair for pair in groups.items() if pair[0] != OTHER), key=lambda pair: (-len(pair[1]), pair[0]))
    left_out = ranked[MAX_DIMENSION_VALUES:]
    if not left_out:
        return groups, [0]
    kept = dict(ranked[:MAX_DIMENSION_VALUES])
    kept[OTHER] = [place for _, places in left_out for place in places] + others
    return kept, [len(left_out[0][1])]


def _cell(places: Sequence[int], users: Sequence[int], columns: Sequence[Column]) -> list[Any]:
    if len(places) > 1:
        return [len(places), _distinct([users[i] for i in places]), *[column.some(places) for column in columns]]
    place = places[0]
    user = users[place]
    return [1, [] if user == NOBODY else [user], *[column.one(place) for column in columns]]


def _distinct(users: Sequence[int]) -> list[int]:
    found = set(users)
    found.discard(NOBODY)
    return sorted(found)


def _measure(values: Sequence[Any], buckets: Sequence[Any]) -> list[Any] | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    counts = Counter(bucket for bucket in buckets if bucket is not None)
    return [len(numbers), exact_sum(numbers), min(numbers), max(numbers), columns_of(counts)]


def dimension_text(value: object) -> str:
    """Return a dimension value as it is shown and filtered by."""
    if isinstance(value, str):
        return value[:MAX_DIMENSION_LENGTH]
    return orjson.dumps(value).decode()[:MAX_DIMENSION_LENGTH]
