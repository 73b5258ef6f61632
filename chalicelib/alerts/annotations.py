"""What people should know beside a series: annotations, and what may be asked of them and of anomalies."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import DAY_MS, iso_ms
from chalicelib.notices.notices import Anomaly
from chalicelib.numbers.questions import LATEST_MS, instant

KINDS = ("deploy", "campaign", "incident", "note")
MAX_PAGE = 500
ID_DIGITS = 16
_UTC = ZoneInfo("UTC")
_LINK = validate.URL(schemes={"http", "https"}, require_tld=False)  # shown as a link: nothing that a browser would run


@dataclass(frozen=True, slots=True)
class Annotation:
    """Something that happened at `at_ms`, such as a deploy."""

    project: str
    id: str
    at_ms: int
    title: str
    kind: str = "note"
    url: str | None = None
    dimension: str | None = None  # it is about the events with this value
    value: str | None = None
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is kept and answered."""
        about = {"dimension": self.dimension, "value": self.value, "tags": list(self.tags)}
        return {
            "id": self.id,
            "at": iso_ms(self.at_ms),
            "title": self.title,
            "kind": self.kind,
            "url": self.url,
            **about,
        }


class AnnotationParameters(Schema):
    """The body of `POST /annotations`."""

    class Meta:
        unknown = RAISE

    id = fields.String(load_default=None, validate=validate.Length(1, 128))
    at = fields.String(load_default=None)
    title = fields.String(required=True, validate=validate.Length(1, 200))
    kind = fields.String(load_default="note", validate=validate.OneOf(KINDS))
    url = fields.String(load_default=None, validate=[validate.Length(1, 2048), _LINK])
    dimension = fields.String(load_default=None, validate=validate.Length(1, 128))
    value = fields.String(load_default=None, validate=validate.Length(1, 128))
    tags = fields.List(
        fields.String(validate=validate.Length(1, 64)), load_default=list, validate=validate.Length(0, 20)
    )

    @post_load
    def _checked(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if (data["dimension"] is None) != (data["value"] is None):
            raise ValidationError("dimension and value must be given together", "value")
        at = data.pop("at")
        at_ms = None if at is None else instant("at", at, _UTC, of_end=False)
        return {**data, "at_ms": at_ms, "tags": tuple(data["tags"])}


@dataclass(frozen=True, slots=True)
class Listing:
    """Which anomalies or annotations: half-open, in Unix milliseconds; `before` is the `next` of the page before."""

    start_ms: int
    end_ms: int
    limit: int
    before: str | None = None
    metric: str | None = None
    direction: str | None = None
    kind: str | None = None

    def chosen(self, anomaly: Anomaly) -> bool:
        """Return whether it passes the filters."""
        asked = ((self.metric, anomaly.subject.metric), (self.direction, anomaly.direction), (self.kind, anomaly.kind))
        return all(wanted in (None, found) for wanted, found in asked)


class RangeParameters(Schema):
    """What lists by time have in common."""

    class Meta:
        unknown = RAISE

    start = fields.String(load_default=None)
    end = fields.String(load_default=None)
    limit = fields.Integer(load_default=100, validate=validate.Range(1, MAX_PAGE))
    before = fields.String(load_default=None, validate=validate.Length(1, 256))

    @post_load
    def _listing(self, data: dict[str, Any], **_: Any) -> Listing:
        start, end = data.pop("start"), data.pop("end")
        end_ms = LATEST_MS if end is None else instant("end", end, _UTC, of_end=True)
        start_ms = 0 if start is None else instant("start", start, _UTC, of_end=False)
        if end_ms <= start_ms:
            raise ValidationError(f"it is not after start {start!r}", "end")
        return Listing(start_ms, end_ms, **data)


class AnomalyParameters(RangeParameters):
    """The query string of `GET /anomalies`."""

    metric = fields.String(load_default=None, validate=validate.Length(1, 128))
    direction = fields.String(load_default=None, validate=validate.OneOf(("high", "low")))
    kind = fields.String(load_default=None, validate=validate.OneOf(("spike", "drop", "silence", "drift")))


_ANNOTATION, _RANGE, _ANOMALIES = AnnotationParameters(), RangeParameters(), AnomalyParameters()


def read_annotation(document: Mapping[str, Any], project: str, now_ms: int) -> Annotation:
    """Now, where no time is named; without an id, one is made of what it says. Raises InvalidRequest."""
    data = read_parameters(_ANNOTATION, document)
    made = sha256(orjson.dumps(dict(document), option=orjson.OPT_SORT_KEYS)).hexdigest()[:ID_DIGITS]
    at_ms = now_ms if data["at_ms"] is None else data["at_ms"]
    # Without id and time, the same words of another day are another annotation.
    identity = data["id"] or (made if data["at_ms"] is not None else f"{made}-{now_ms // DAY_MS}")
    return Annotation(**{**data, "project": project, "id": identity, "at_ms": at_ms})


def read_range(parameters: Mapping[str, str]) -> Listing:
    """Return which annotations are asked for; raises InvalidRequest."""
    listing: Listing = read_parameters(_RANGE, parameters)
    return listing


def read_anomalies(parameters: Mapping[str, str]) -> Listing:
    """Return which anomalies are asked for; raises InvalidRequest."""
    listing: Listing = read_parameters(_ANOMALIES, parameters)
    return listing
