"""The most frequent values of any property, or those with the largest sum of a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from chalicelib.sql.report_questions import (
    MAX_GROUPS,
    PROPERTY,
    WHO,
    RangeParameters,
    Report,
    Row,
    Sql,
    TimeRange,
    an_event_type,
    limited,
    property_of,
    ratio,
    take_range,
)

COUNT, USERS, SUM = "count", "users", "sum"


@dataclass(frozen=True, slots=True)
class Top:
    """The question."""

    within: TimeRange
    of: str
    event_type: str | None
    agg: str
    measure: str | None
    limit: int


class TopParameters(RangeParameters):
    """The query string of `GET /reports/top`."""

    of = fields.String(required=True, validate=PROPERTY, metadata={"description": "A property.", "example": "path"})
    event_type = an_event_type("Only events of this type.")
    agg = fields.String(load_default=COUNT, validate=validate.OneOf([COUNT, USERS, SUM]))
    measure = fields.String(
        load_default=None, validate=PROPERTY, metadata={"description": "The property that a sum is of."}
    )
    limit = limited(10, MAX_GROUPS, "How many values are shown.")

    @post_load
    def _top(self, data: dict[str, Any], **_: Any) -> Top:
        if (data["agg"] == SUM) != (data["measure"] is not None):
            raise ValidationError("measure is required with agg=sum, and not allowed otherwise", "measure")
        return Top(take_range(data), **data)


def sql(top: Top) -> Sql:
    """Return a row of all events that have the property, then one of each value."""
    condition, values = top.within.events()
    if top.event_type:
        condition, values["event_type"] = f"{condition} AND event_type = :event_type", top.event_type
    number = {
        COUNT: "count(*)",
        USERS: "count(DISTINCT who)",
        SUM: "sum(measured)",
    }[top.agg]
    measured = f"try_cast({property_of(top.measure)} AS double)" if top.measure else "cast(NULL AS double)"
    text = f"""WITH seen AS (
        SELECT {property_of(top.of)} AS value, {WHO} AS who, {measured} AS measured FROM events WHERE {condition}
    )
    SELECT grouping(value) AS everything, value, {number} AS number FROM seen WHERE value IS NOT NULL
    GROUP BY GROUPING SETS ((), (value)) ORDER BY 1 DESC, 3 DESC, 2 LIMIT {top.limit + 1}"""
    return text, values


def answer(top: Top, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the values with their share of the total; shares of users may add up to more than one."""
    total = next((row["number"] for row in rows if row["everything"]), None) or 0
    shown = [
        {"value": row["value"], "number": row["number"], "share": ratio(row["number"], total)}
        for row in rows
        if not row["everything"]
    ]
    return {**top.within.told(), "of": top.of, "agg": top.agg, "measure": top.measure, "total": total, "values": shown}


REPORT = Report(TopParameters, sql, answer)
