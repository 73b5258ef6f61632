"""What the API answers, as JSON Schema. The tests hold every answer to it, without a field more."""

from chalicelib.alerts.alerts import ABOVE, BELOW
from chalicelib.alerts.annotations import KINDS
from chalicelib.events.erasure import State
from chalicelib.http.openapi import JsonSchema, ref
from chalicelib.imports.imports import STATES
from chalicelib.numbers.questions import AGGREGATIONS, INTERVALS, QUANTILES
from chalicelib.numbers.summaries import PERCENTILES

TEXT: JsonSchema = {"type": "string"}
TEXT_OR_NULL: JsonSchema = {"type": ["string", "null"]}
COUNT: JsonSchema = {"type": "integer", "minimum": 0}
NUMBER: JsonSchema = {"type": "number"}
NUMBER_OR_NULL: JsonSchema = {"type": ["number", "null"]}
YES_OR_NO: JsonSchema = {"type": "boolean"}
TIME: JsonSchema = {"type": "string", "description": "RFC 3339."}
ANYTHING: JsonSchema = {}


def one_of(*values: object) -> JsonSchema:
    """Return one of these values."""
    return {"enum": list(values)}


def many(items: JsonSchema) -> JsonSchema:
    """Return a list."""
    return {"type": "array", "items": items}


def by_name(values: JsonSchema) -> JsonSchema:
    """An object whose names are data."""
    return {"type": "object", "additionalProperties": values}


def an(*, maybe: JsonSchema | None = None, **always: JsonSchema) -> JsonSchema:
    """An object that always has these fields, and maybe those."""
    return {"type": "object", "required": list(always), "properties": {**always, **(maybe or {})}}


_RANGE = {"start": TIME, "end": TIME}
_SERIES = {"series": many(an(start=TIME, value=NUMBER_OR_NULL)), "total": NUMBER_OR_NULL}
_GROUPS = many(an(key=TEXT, **_SERIES))
_REASON = {"code": TEXT, "message": TEXT, "path": TEXT}
_VERDICTS = {
    "accepted": COUNT,
    "rejected": many(an(index=COUNT, event_id=TEXT_OR_NULL, **_REASON)),
    "event_ids": many(TEXT),
}
_WARNINGS = {"warnings": many(an(index=COUNT, **_REASON))}
_QUERY = {"id": TEXT, "state": TEXT, "scanned_bytes": COUNT}

ERROR = an(code=TEXT, message=TEXT)
VERDICTS = an(maybe=_WARNINGS, **_VERDICTS)
NOTHING_ACCEPTED = an(maybe=_WARNINGS, **_VERDICTS, code=TEXT, message=TEXT)
SDK_VERDICTS = an(success=one_of(True), maybe={**_VERDICTS, **_WARNINGS, "code": TEXT, "message": TEXT})
SETTINGS = {"type": "object", "description": "What analytics.js reads of Segment's settings document."}
SOURCE_CONFIG = {"type": "object", "description": "What RudderStack's SDKs read of their control plane's answer."}

ANNOTATION = an(
    id=TEXT,
    at=TIME,
    title=TEXT,
    kind=one_of(*KINDS),
    url=TEXT_OR_NULL,
    dimension=TEXT_OR_NULL,
    value=TEXT_OR_NULL,
    tags=many(TEXT),
)
ANALYTICS = an(
    metric=TEXT,
    agg=one_of(*AGGREGATIONS),
    **_RANGE,
    interval=one_of(*INTERVALS),
    timezone=TEXT,
    **_SERIES,
    open=YES_OR_NO,
    annotations=many(ANNOTATION),
    maybe={
        "groups": _GROUPS,
        "other": NUMBER_OR_NULL,
        "previous": an(**_RANGE, **_SERIES, maybe={"groups": _GROUPS, "other": NUMBER_OR_NULL}),
        "change": NUMBER_OR_NULL,
        "relative_standard_error": NUMBER,
        "relative_error": NUMBER,
    },
)
_SUMMARY = {
    "count": COUNT,
    "users": COUNT,
    "measures": by_name(
        an(count=COUNT, sum=NUMBER, **dict.fromkeys(("avg", "min", "max", *PERCENTILES), NUMBER_OR_NULL))
    ),
    "top": by_name(many(an(value=TEXT, count=COUNT))),
}
AGGREGATION = an(
    event_type=TEXT,
    date=TEXT,
    open=YES_OR_NO,
    total=an(**_SUMMARY),
    hours=many(an(start=TIME, open=YES_OR_NO, **_SUMMARY)),
)
REALTIME = an(
    as_of=TIME,
    window_seconds=COUNT,
    events=COUNT,
    events_per_second=NUMBER,
    active_users=COUNT,
    error_rate=NUMBER,
    metrics=by_name(COUNT),
    top=by_name(many(an(value=TEXT, count=COUNT))),
    measures=by_name(an(count=COUNT, avg=NUMBER, min=NUMBER, max=NUMBER, **dict.fromkeys(QUANTILES, NUMBER))),
    ledger=many(
        an(
            hour=TEXT,
            received=COUNT,
            stored=COUNT,
            duplicate=COUNT,
            quarantined=COUNT,
            erased=COUNT,
            in_flight=COUNT,
            surplus=COUNT,
            bots=COUNT,
        )
    ),
    minutes=many(an(start=TIME, events=COUNT)),
)
TICKET = an(ticket=TEXT, url=TEXT, expires_at=TIME)
USER = an(user_id=TEXT, traits=by_name(ANYTHING), previous_ids=many(TEXT), became=many(TEXT))
TIMELINE = an(
    user_id=TEXT,
    events=many(
        an(
            event_id=TEXT,
            event_type=TEXT,
            occurred_at=TIME,
            received_at=TIME,
            session_id=TEXT_OR_NULL,
            maybe={
                "schema_version": TEXT,
                "user_id": TEXT,
                "anonymous_id": TEXT,
                "timestamp": {"type": ["string", "number"], "description": "As the client sent it."},
                "properties": by_name(ANYTHING),
                "context": by_name(ANYTHING),
                "enrichment": by_name(ANYTHING),
            },
        )
    ),
    next=TEXT_OR_NULL,
)
QUARANTINE = an(
    events=many(
        an(
            id=TEXT,
            received_at=TIME,
            event_type=TEXT_OR_NULL,
            event_id=TEXT_OR_NULL,
            **_REASON,
            schema_version=TEXT_OR_NULL,
            event=ANYTHING,
        )
    ),
    next=TEXT_OR_NULL,
)
REPLAY = an(replayed=COUNT, rejected=COUNT, reasons=by_name(COUNT), left=COUNT, next=TEXT_OR_NULL, dry_run=YES_OR_NO)
ROWS = an(
    **_QUERY,
    columns=many(an(name=TEXT, type=TEXT)),
    rows=many(many(ANYTHING)),
    next=TEXT_OR_NULL,
    downloads=many(an(format=one_of("csv", "parquet"), url=TEXT, maybe={"size_bytes": COUNT})),
)
RUNNING = an(**_QUERY)
ENDED = an(id=TEXT, state=TEXT)
SAVED_QUERY = an(name=TEXT, sql=TEXT, description=TEXT, parameters=many(TEXT), saved_at=TIME)
SAVED_QUERIES = an(queries=many(SAVED_QUERY))


def _report(name: str, *, maybe: JsonSchema | None = None, **fields: JsonSchema) -> JsonSchema:
    return an(**_QUERY, report=one_of(name), **_RANGE, timezone=TEXT, maybe=maybe, **fields)


_STEPS = many(
    an(
        step=TEXT,
        users=COUNT,
        conversion=NUMBER_OR_NULL,
        maybe=dict.fromkeys(("conversion_from_previous", "mean_seconds", "median_seconds"), NUMBER_OR_NULL),
    )
)
_SESSION_NUMBERS = {
    "sessions": COUNT,
    "users": COUNT,
    **dict.fromkeys(("events_per_session", "mean_seconds", "median_seconds", "bounce_rate"), NUMBER_OR_NULL),
}
FUNNEL = _report(
    "funnel", window_minutes=COUNT, steps=_STEPS, maybe={"groups": many(an(key=TEXT_OR_NULL, steps=_STEPS))}
)
RETENTION = _report(
    "retention",
    interval=one_of("day", "week", "month"),
    mode=one_of("first_time", "recurring"),
    cohorts=many(an(start=TEXT, users=COUNT, retained=many(an(users=COUNT, rate=NUMBER_OR_NULL)))),
)
SESSIONS = _report(
    "sessions",
    interval=one_of("hour", "day", "week", "month"),
    total=an(**_SESSION_NUMBERS),
    series=many(an(start=TIME, **_SESSION_NUMBERS)),
    maybe={"groups": many(an(key=TEXT_OR_NULL, **_SESSION_NUMBERS))},
)
TOP = _report(
    "top",
    of=TEXT,
    agg=one_of("count", "users", "sum"),
    measure=TEXT_OR_NULL,
    total=NUMBER,
    values=many(an(value=TEXT, number=NUMBER_OR_NULL, share=NUMBER_OR_NULL)),
)
PATHS = _report(
    "paths",
    by=TEXT,
    depth=COUNT,
    sessions=COUNT,
    paths=many(an(steps=many(TEXT), sessions=COUNT, share=NUMBER_OR_NULL)),
)
RESULT = {"anyOf": [ROWS, FUNNEL, RETENTION, SESSIONS, TOP, PATHS]}
ERASURE = an(
    id=TEXT,
    state=one_of(*State),
    user_id=TEXT_OR_NULL,
    ids=many(TEXT),
    requested_at=TIME,
    done_at=TEXT_OR_NULL,
    removed=by_name(COUNT),
    copies_until=TEXT_OR_NULL,
)
ERASURES = an(erasures=many(ERASURE), next=TEXT_OR_NULL)
IMPORTS = an(
    imports=many(
        an(
            id=TEXT,
            file=TEXT,
            state=one_of(*STATES),
            rows={"type": ["integer", "null"], "minimum": 0},
            **dict.fromkeys(("accepted", "rejected", "stored", "duplicates"), COUNT),
            progress=NUMBER,
            reasons=by_name(COUNT),
            error=TEXT_OR_NULL,
            started_at=TIME,
            ended_at=TEXT_OR_NULL,
        )
    ),
    next=TEXT_OR_NULL,
)
ANOMALIES = an(
    anomalies=many(
        an(
            id=TEXT,
            project=TEXT,
            metric=TEXT,
            agg=one_of(*AGGREGATIONS),
            measure=TEXT_OR_NULL,
            dimension=TEXT_OR_NULL,
            value=TEXT_OR_NULL,
            hour=TEXT,
            kind=one_of("spike", "drop", "silence", "drift"),
            direction=one_of("high", "low"),
            observed=NUMBER,
            expected=NUMBER,
            score=NUMBER,
            method=one_of("seasonal", "plain"),
            since=TEXT,
        )
    ),
    next=TEXT_OR_NULL,
)
ALERT = an(
    id=TEXT,
    project=TEXT,
    name=TEXT,
    metric=TEXT,
    agg=one_of(*AGGREGATIONS),
    measure=TEXT_OR_NULL,
    filter={"type": ["object", "null"], "additionalProperties": many(TEXT)},
    window_minutes=COUNT,
    comparison=one_of(ABOVE, BELOW),
    threshold=NUMBER,
    cooldown_minutes=COUNT,
    state=one_of("firing", "ok"),
    created_at=TIME,
    changed_at=TEXT_OR_NULL,
    value=NUMBER_OR_NULL,
    maybe={"warnings": many(TEXT)},
)
ALERTS = an(alerts=many(ALERT))
DELETED = an(deleted=TEXT)
ANNOTATIONS = an(annotations=many(ANNOTATION), next=TEXT_OR_NULL)
SCHEMAS = an(
    schemas=many(an(event_type=TEXT, metric=TEXT, title=TEXT, description=TEXT, newest=TEXT, versions=many(TEXT)))
)
SCHEMA = an(event_type=TEXT, newest=TEXT, versions=by_name({"type": "object", "description": "A JSON Schema."}))
HEALTH = an(status=one_of("ok"), version=TEXT, stage=TEXT)
OPENAPI = {"type": "object", "description": "This document: OpenAPI 3.1."}
PAGE = {"type": "string", "description": "HTML."}

COMPONENTS = {"Error": ERROR, "Verdicts": VERDICTS}
VERDICTS_REF = ref("Verdicts")
