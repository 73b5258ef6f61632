"""Thresholds that users set: what they may say, which number of the last minutes is compared, and when an alert fires.

An alert's id is made of what it says, so the same one posted twice is one alert.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base import waits
from chalicelib.base.errors import InvalidRequest
from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import MINUTE_MS, iso_ms
from chalicelib.events.contracts import Contracts
from chalicelib.notices.notices import ALERT, Notice
from chalicelib.numbers.questions import AGGREGATIONS, MEASURED, QUANTILES, USERS
from chalicelib.rollups.folding import dimension_text
from chalicelib.rollups.rollups import Cell, Rollup, Rollups, Values
from chalicelib.rollups.sketches import quantile

EVENTS = "events"  # the metric of every event type together
ABOVE, BELOW = "above", "below"
MAX_WINDOW_MINUTES = waits.LOOK_BACK_MS // MINUTE_MS
MAX_COOLDOWN_MINUTES = 1440
MAX_NAMED = 50  # metrics in a warning
MAX_VALUES = 20  # of a filter
ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold on one number of the last `window_minutes` whole minutes, by arrival."""

    project: str
    name: str
    metric: str
    agg: str
    measure: str | None
    dimension: str | None  # only of the events with one of these values
    values: tuple[str, ...]
    window_minutes: int
    comparison: str
    threshold: float
    cooldown_minutes: int  # after it fired, it does not fire again for so long

    @property
    def id(self) -> str:
        """The same for the same words."""
        return sha256(orjson.dumps([*asdict(self).values()])).hexdigest()[:ID_DIGITS]

    def value(self, rollups: Iterable[Rollups], contracts: Contracts) -> float | None:
        """Return the number, None where nothing was measured; of no events the count is 0."""
        event_type = contracts.type_of(self.metric) or self.metric
        total = Cell()
        for part in rollups:
            for name, rollup in part.items():
                if self.metric in (EVENTS, USERS) or name == event_type:
                    for cell in self._cells(rollup):
                        total.merge(cell)
        if self.metric == USERS or self.agg == "users":
            return total.users.estimate()
        if self.agg == "count":
            return total.count
        found = total.measures.get(self.measure or "")
        if found is None or not found.count:
            return None
        if self.agg in QUANTILES:
            return quantile(found.buckets, QUANTILES[self.agg])
        return {"sum": found.total, "avg": found.total / found.count, "min": found.low, "max": found.high}[self.agg]

    def _cells(self, rollup: Rollup) -> list[Cell]:
        if self.dimension is None:
            return [rollup]
        values = rollup.dimensions.get(self.dimension, Values())
        return [values[value] for value in self.values if value in values]

    def broken(self, value: float | None) -> bool:
        """Return whether the number is beyond the threshold; one that is not there is not."""
        if value is None:
            return False
        return value > self.threshold if self.comparison == ABOVE else value < self.threshold

    def to_json(self) -> dict[str, Any]:
        """As it is kept and answered."""
        words = asdict(self)
        dimension, values = words.pop("dimension"), words.pop("values")
        return {"id": self.id, **words, "filter": {dimension: list(values)} if dimension else None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Alert":
        """Return the inverse of `to_json`."""
        words = {name: value for name, value in document.items() if name not in ("id", "filter")}
        dimension, values = next(iter((document["filter"] or {None: ()}).items()))
        return cls(**words, dimension=dimension, values=tuple(values))


@dataclass(frozen=True, slots=True)
class AlertState:
    """Times in Unix milliseconds. `pending` is the notice of the last change, until everybody was told."""

    created_ms: int
    firing: bool = False
    changed_ms: int = 0
    fired_ms: int = 0
    value: float | None = None
    pending: Mapping[str, Any] | None = field(default=None)

    def next(self, alert: Alert, value: float | None, now_ms: int) -> "AlertState | None":
        """Return the state after a change, with the notice to be given; None when nothing changes.

        `value` is that of the window that ends at `now_ms`, a whole minute. Of a window that begins before the alert
        did, silence says nothing; of one that ends before, nothing does.
        """
        if now_ms < self.created_ms:
            return None
        known = now_ms - alert.window_minutes * MINUTE_MS >= self.created_ms or alert.comparison == ABOVE
        firing = alert.broken(value) and known
        rests = firing and self.fired_ms + alert.cooldown_minutes * MINUTE_MS > now_ms
        if firing == self.firing or rests:
            return None
        state = "firing" if firing else "resolved"
        notice = {
            "id": f"{alert.id}-{now_ms // MINUTE_MS}-{state}",
            "project": alert.project,
            "alert": alert.to_json(),
            "state": state,
            "value": value,
            "at": iso_ms(now_ms),
        }
        return AlertState(self.created_ms, firing, now_ms, now_ms if firing else self.fired_ms, value, notice)

    def to_json(self) -> dict[str, Any]:
        """As it is answered."""
        return {
            "state": "firing" if self.firing else "ok",
            "created_at": iso_ms(self.created_ms),
            "changed_at": iso_ms(self.changed_ms) if self.changed_ms else None,
            "value": self.value,
        }


def notice_of(document: Mapping[str, Any]) -> Notice:
    """Return what is published of a change."""
    alert, value = document["alert"], document["value"]
    number = "no value" if value is None else f"{value:.6g}"
    title = f"{document['state']}: {alert['name']}: {number}, {alert['comparison']} {alert['threshold']:.6g}"
    return Notice(ALERT, document, title)


def _texts(values: Any) -> tuple[str, ...]:
    listed = values if isinstance(values, list) else [values]
    if not 1 <= len(listed) <= MAX_VALUES or not all(isinstance(v, str | int | float) for v in listed):
        raise ValidationError(f"a dimension with one value or a list of 1 to {MAX_VALUES}", "filter")
    return tuple(sorted({dimension_text(value) for value in listed}))


class AlertParameters(Schema):
    """The body of `POST /alerts`."""

    class Meta:
        unknown = RAISE

    name = fields.String(required=True, validate=validate.Length(1, 128))
    metric = fields.String(required=True, validate=validate.Length(1, 128))
    agg = fields.String(load_default="count", validate=validate.OneOf(AGGREGATIONS))
    measure = fields.String(load_default=None, validate=validate.Length(1, 128))
    filter = fields.Dict(keys=fields.String(), load_default=None, validate=validate.Length(equal=1))
    window_minutes = fields.Integer(load_default=5, strict=True, validate=validate.Range(1, MAX_WINDOW_MINUTES))
    comparison = fields.String(required=True, validate=validate.OneOf((ABOVE, BELOW)))
    threshold = fields.Float(required=True, allow_nan=False)
    cooldown_minutes = fields.Integer(load_default=10, strict=True, validate=validate.Range(0, MAX_COOLDOWN_MINUTES))

    @post_load
    def _words(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if (data["agg"] in MEASURED) != (data["measure"] is not None):
            wanted = "needs a measure, such as latency_ms" if data["measure"] is None else "takes none"
            raise ValidationError(f"agg={data['agg']} {wanted}", "measure")
        chosen = data.pop("filter")
        dimension, values = next(iter(chosen.items())) if chosen else (None, None)
        return {**data, "dimension": dimension, "values": _texts(values) if chosen else ()}


_ALERT = AlertParameters()


def read_alert(document: Mapping[str, Any], project: str, contracts: Contracts) -> Alert:
    """Raises InvalidRequest naming what is wrong, its value, and what is allowed.

    A metric without a contract is one that may come yet, see `unknown`; of one with a contract only what is kept can
    be asked.
    """
    alert = Alert(project, **read_parameters(_ALERT, document))
    if alert.metric == "sessions":
        raise InvalidRequest(
            "metric: 'sessions' are counted when their hour is over; alerts are about the last minutes",
            code="invalid_parameter",
        )
    event_type = contracts.type_of(alert.metric)
    spec = contracts.spec(event_type or alert.metric)
    for name, asked, kept in (("measure", alert.measure, spec.measures), ("filter", alert.dimension, spec.dimensions)):
        if asked is not None and asked not in kept:
            known = ", ".join(kept) or "none"
            raise InvalidRequest(
                f"{name}: {asked!r} is not rolled up for {alert.metric}; rolled up are {known}",
                code="invalid_parameter",
            )
    return alert


def unknown(alert: Alert, contracts: Contracts, seen: Callable[[], Iterable[str]]) -> str | None:
    """Return what to tell of a metric that no event has: perhaps it is misspelled, and then the alert waits for ever.

    `seen` are the event types that the project ever sent; asked for only where no contract has the metric.
    """
    if alert.metric in (EVENTS, USERS) or contracts.type_of(alert.metric) is not None:
        return None
    types = set(seen())
    if alert.metric in types:
        return None
    names = sorted({EVENTS, USERS, *(contract.metric for contract in contracts), *types})
    near = "".join(f"; did you mean {name}?" for name in get_close_matches(alert.metric, names, 1))
    return f"metric: no event has {alert.metric!r} yet{near or '.'} Known are {', '.join(names[:MAX_NAMED])}"
