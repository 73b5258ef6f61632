"""The funnel: how many users went through steps in order, within a time, and how long each step took.

An attempt begins with an event of the first step; each further step is the first such event after the step before it.
It reaches the steps that lie within the window, counted from its beginning. Of a user's attempts the one counts that
reaches furthest; of several the earliest. Within a millisecond, earlier steps are taken to come first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from chalicelib.base.time_windows import MINUTE_MS
from chalicelib.sql.query_requests import Value
from chalicelib.sql.report_questions import (
    MAX_EVENT_TYPE,
    MAX_GROUPS,
    MILLISECONDS,
    NAME,
    PROPERTY,
    WHO,
    RangeParameters,
    Report,
    Row,
    Sql,
    TimeRange,
    limited,
    property_of,
    ratio,
    seconds,
    take_range,
)

MIN_STEPS, MAX_STEPS = 2, 8
MAX_WINDOW_MINUTES = 90 * 24 * 60
STEPS = "page_view,add_to_cart,purchase; a step may ask for a property's value: page_view:path=/pricing,signup"


@dataclass(frozen=True, slots=True)
class Step:
    """Events of a type, perhaps only those with a value of a property."""

    event_type: str
    name: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        return self.event_type if self.name is None else f"{self.event_type}:{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class Funnel:
    """The question."""

    within: TimeRange
    steps: tuple[Step, ...]
    window_minutes: int
    group_by: str | None
    limit: int


class FunnelParameters(RangeParameters):
    """The query string of `GET /reports/funnel`."""

    steps = fields.String(required=True, metadata={"description": STEPS, "example": "page_view,signup"})
    window_minutes = fields.Integer(
        load_default=7 * 24 * 60,
        validate=validate.Range(1, MAX_WINDOW_MINUTES),
        metadata={"description": "From the first step on; a week unless said."},
    )
    group_by = fields.String(
        load_default=None,
        validate=PROPERTY,
        metadata={"description": "A property of the first step's event.", "example": "country"},
    )
    limit = limited(100, MAX_GROUPS, "How many groups are shown, the largest first.")

    @post_load
    def _funnel(self, data: dict[str, Any], **_: Any) -> Funnel:
        steps = tuple(_step(text) for text in data.pop("steps").split(","))
        if not MIN_STEPS <= len(steps) <= MAX_STEPS:
            raise ValidationError(f"{len(steps)} steps; the limit is {MIN_STEPS} to {MAX_STEPS} steps", "steps")
        return Funnel(take_range(data), steps, **data)


def _step(text: str) -> Step:
    event_type, _, condition = text.partition(":")
    name, equals, value = condition.partition("=")
    if not equals:
        event_type = text  # whose name has a colon
    if not 1 <= len(event_type) <= MAX_EVENT_TYPE or (equals and not NAME.fullmatch(name)):
        raise ValidationError(f"write {STEPS}", "steps")
    return Step(event_type, name, value) if equals else Step(event_type)


def sql(funnel: Funnel) -> Sql:
    """Return a row of all users, and with `group_by` one of each group, the largest first.

    `after` goes backwards in time: of each event it says when the steps behind it come next. `next_<k>_<j>` is the time
    of step j in what follows on the next step k + 1, which the later steps then need look up once.
    """
    condition, values = funnel.within.events(after_ms=funnel.window_minutes * MINUTE_MS)
    count = len(funnel.steps)
    matches = [_matches(number, step, values) for number, step in enumerate(funnel.steps, 1)]
    flags = ", ".join(f"{match} AS is_{number}" for number, match in enumerate(matches, 1))
    first = " ".join(f"WHEN is_{number} THEN {number}" for number in range(1, count + 1))
    group = property_of(funnel.group_by) if funnel.group_by else "cast(NULL AS varchar)"
    text = f"""WITH seen AS (
        SELECT {WHO} AS who, event_id, {MILLISECONDS} AS ms, {group} AS grp, {flags}
        FROM events WHERE {WHO} IS NOT NULL AND {condition}
    ), after_{count} AS (
        SELECT seen.*, CASE {first} END AS step FROM seen WHERE {" OR ".join(f"is_{n}" for n in range(1, count + 1))}
    )"""
    order = "PARTITION BY who ORDER BY ms DESC, step DESC, event_id DESC"
    window = f"OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    for step in range(count - 1, 0, -1):
        times = [f"min(CASE WHEN is_{step + 1} THEN ms END) {window} AS next_{step}_{step + 1}"]
        times += [
            f"min(CASE WHEN is_{step + 1} THEN next_{step + 1}_{later} END) {window} AS next_{step}_{later}"
            for later in range(step + 2, count + 1)
        ]
        text += f""", after_{step} AS (
        SELECT after_{step + 1}.*, {", ".join(times)} FROM after_{step + 1}
    )"""
    reached = " ".join(
        f"WHEN next_1_{step} <= ms + {funnel.window_minutes * MINUTE_MS} THEN {step}" for step in range(count, 1, -1)
    )
    sums = ["count(*) AS users_1"]
    for step in range(2, count + 1):
        before = "ms" if step == 2 else f"next_1_{step - 1}"
        took = f"CASE WHEN reached >= {step} THEN next_1_{step} - {before} END"
        sums += [
            f"count_if(reached >= {step}) AS users_{step}",
            f"avg({took}) AS mean_{step}",
            f"approx_percentile({took}, 0.5) AS median_{step}",
        ]
    text += f""", attempts AS (
        SELECT after_1.*, CASE {reached} ELSE 1 END AS reached FROM after_1 WHERE is_1 AND ms < {funnel.within.end_ms}
    ), ranked AS (
        SELECT attempts.*, row_number() OVER (PARTITION BY who ORDER BY reached DESC, ms, event_id) AS choice
        FROM attempts
    )
    SELECT grouping(grp) AS everyone, grp, {", ".join(sums)} FROM ranked WHERE choice = 1
    GROUP BY GROUPING SETS ((), (grp)) ORDER BY 1 DESC, 3 DESC, 2 LIMIT {funnel.limit + 1}"""
    return text, values


def _matches(number: int, step: Step, values: dict[str, Value]) -> str:
    values[f"type_{number}"] = step.event_type
    if step.name is None:
        return f"event_type = :type_{number}"
    values[f"value_{number}"] = step.value
    # Not NULL where there is no value: an event is of the step or it is not.
    return f"(event_type = :type_{number} AND coalesce({property_of(step.name)} = :value_{number}, false))"


def answer(funnel: Funnel, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the steps of everyone and, with `group_by`, of each group."""
    everyone = next((row for row in rows if row["everyone"]), {})
    answered = {
        **funnel.within.told(),
        "window_minutes": funnel.window_minutes,
        "steps": _steps(funnel, everyone),
    }
    if funnel.group_by:
        answered["groups"] = [{"key": row["grp"], "steps": _steps(funnel, row)} for row in rows if not row["everyone"]]
    return answered


def _steps(funnel: Funnel, row: Row) -> list[dict[str, Any]]:
    entered = row.get("users_1") or 0
    steps = []
    for number, step in enumerate(funnel.steps, 1):
        users = row.get(f"users_{number}") or 0
        told: dict[str, Any] = {"step": str(step), "users": users, "conversion": ratio(users, entered)}
        if number > 1:
            told["conversion_from_previous"] = ratio(users, row.get(f"users_{number - 1}"))
            told["mean_seconds"] = seconds(row.get(f"mean_{number}"))
            told["median_seconds"] = seconds(row.get(f"median_{number}"))
        steps.append(told)
    return steps


REPORT = Report(FunnelParameters, sql, answer)
