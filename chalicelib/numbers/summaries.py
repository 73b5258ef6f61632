"""The summary of a day, and of each of its hours: what `GET /aggregations/{event_type}` asks and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base.parameters import read_parameters
from chalicelib.base.time_windows import DATE
from chalicelib.rollups.facets import COUNTS, USERS, facet_of, quantiles_of
from chalicelib.rollups.rollups import OTHER, Cell, Measure, Rollup, RollupSpec, Values
from chalicelib.rollups.sketches import quantile

PERCENTILES = {"p50": 0.5, "p95": 0.95}
MAX_TOP = 100
FIRST_YEAR, LAST_YEAR = 1970, 9998
NOTHING, NO_VALUES = Rollup(), Measure()


@dataclass(frozen=True, slots=True)
class Day:
    """Which UTC day, `2026-11-21`, and how many values of each dimension are shown."""

    date: str
    top: int


class SummaryParameters(Schema):
    """The query string of `GET /aggregations/{event_type}`."""

    class Meta:
        unknown = RAISE

    date = fields.String(required=True, metadata={"description": "A UTC day.", "example": "2026-11-21"})
    top = fields.Integer(
        load_default=10,
        validate=validate.Range(0, MAX_TOP),
        metadata={"description": "How many values of each dimension, the most frequent first."},
    )

    @post_load
    def _day(self, data: dict[str, Any], **_: Any) -> Day:
        text = data["date"]
        try:
            year = date.fromisoformat(text).year if DATE.fullmatch(text) else 0
        except ValueError:
            year = 0
        if not FIRST_YEAR <= year <= LAST_YEAR:
            message = f"{text[:64]!r} is not a day such as 2026-11-21, of the years {FIRST_YEAR} to {LAST_YEAR}"
            raise ValidationError(message, "date")
        return Day(text, data["top"])


_PARAMETERS = SummaryParameters()


def read_day(parameters: Mapping[str, str]) -> Day:
    """Raises InvalidRequest naming the parameter, the value and what is allowed."""
    day: Day = read_parameters(_PARAMETERS, parameters)
    return day


def summary_facets(spec: RollupSpec) -> list[str]:
    """The facets that a summary is made of."""
    dimensions = (facet_of(COUNTS, dimension) for dimension in spec.dimensions)
    return [COUNTS, USERS, *map(quantiles_of, spec.measures), *dimensions]


def summary(parts: Mapping[str, Rollup], spec: RollupSpec, top: int) -> dict[str, Any]:
    """Return the numbers of an hour, or of a day, by facet; a percentile of nothing is null."""
    counts = parts.get(COUNTS, NOTHING)
    found = {
        name: parts.get(facet_of(COUNTS, name), NOTHING).dimensions.get(name, Values()) for name in spec.dimensions
    }
    return {
        "count": counts.count,
        "users": parts.get(USERS, NOTHING).users.estimate(),
        "measures": {
            name: _measured(
                counts.measures.get(name, NO_VALUES),
                parts.get(quantiles_of(name), NOTHING).measures.get(name, NO_VALUES),
            )
            for name in spec.measures
        },
        "top": {name: _top(values, top) for name, values in found.items()},
    }


def total_of(hours: Mapping[str, Mapping[str, Rollup]]) -> dict[str, Rollup]:
    """Return the facets of all hours together, of the same by hour."""
    totals: dict[str, Rollup] = {}
    for facet, parts in hours.items():
        totals[facet] = Rollup()
        for part in parts.values():
            totals[facet].merge(part)
    return totals


def _measured(sums: Measure, buckets: Measure) -> dict[str, Any]:
    percentiles = {name: quantile(buckets.buckets, q) for name, q in PERCENTILES.items()}
    if not sums.count:
        return {"count": 0, "sum": 0, "avg": None, "min": None, "max": None, **percentiles}
    stated = {"avg": sums.total / sums.count, "min": sums.low, "max": sums.high}
    return {"count": sums.count, "sum": sums.total, **stated, **percentiles}


def _top(values: Mapping[str, Cell], most: int) -> list[dict[str, Any]]:
    named = sorted((-cell.count, value) for value, cell in values.items() if value != OTHER and cell.count)
    return [{"value": value, "count": -count} for count, value in named[:most]]
