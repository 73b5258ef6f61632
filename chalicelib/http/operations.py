"""What each route does: the part of `GET /openapi.json` that no other code says.

To add a route, besides app.py: one entry below, `"METHOD /path": Operation(...)`, with

- the summary and the scope, as in the table of docs/api.md; the scope says that it may answer 401, 403 and 503;
- `answers`: by status, what it answers when all is well; a new shape goes to http/answers.py;
- `query` or `body`: the marshmallow schema that loads it, from which names, enums, limits and the 400 follow (of a
  field, `description` and `example` in its `metadata` are shown); a body that no schema loads is given as JSON Schema;
- `raises`: the other errors that the caller meets, such as `NotFound`.

The tests fail when a route has no entry, an entry has no route, the scope is not the one asked for, or when any
request of the end-to-end tests, schemathesis's among them, is answered in another way than is said here.
"""

from chalicelib.access.access import Scope
from chalicelib.alerts.alerts import AlertParameters
from chalicelib.alerts.annotations import AnnotationParameters, AnomalyParameters, RangeParameters
from chalicelib.base.errors import InvalidRequest, NotFound, TooManyRequests
from chalicelib.base.parameters import PageParameters
from chalicelib.events.contracts import MAX_ID_LENGTH
from chalicelib.events.events import MAX_EVENTS, MAX_MESSAGES
from chalicelib.http import answers
from chalicelib.http.answers import VERDICTS_REF, an, many
from chalicelib.http.openapi import SOME_TEXT, WRITE_KEYS, JsonSchema, Operation, ref
from chalicelib.ingest import cloudevents, segment
from chalicelib.ingest.bodies import JSON, MEDIA_TYPES
from chalicelib.numbers.questions import QuestionParameters
from chalicelib.numbers.summaries import SummaryParameters
from chalicelib.quarantine.selections import ListParameters, ReplayParameters
from chalicelib.sql.query_requests import QueryBody, ResultParameters, SavedQueryBody
from chalicelib.sql.reports import REPORTS

_EVENTS = many(ref("Event")) | {"minItems": 1, "maxItems": MAX_EVENTS}
_NATIVE: JsonSchema = {"anyOf": [ref("Event"), _EVENTS, an(events=_EVENTS, maybe={"sent_at": {}})]}
_CLOUDEVENT: JsonSchema = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        **{name: {"type": "string", "minLength": 1} for name in ("id", "source", "type")},
        "time": answers.TIME,
        "data": {"type": "object"},
        "data_base64": answers.TEXT,
    },
}
# A body under another name is JSON too, or, of POST /events, lines of it; JSON in gzip has no schema here.
_OTHER_NAMES: dict[str, JsonSchema] = {media_type: {} for media_type in MEDIA_TYPES if media_type != JSON}
_NATIVE_BODY = {
    JSON: _NATIVE,
    **_OTHER_NAMES,
    cloudevents.STRUCTURED: _CLOUDEVENT,
    cloudevents.BATCH: many(_CLOUDEVENT) | {"minItems": 1, "maxItems": MAX_EVENTS},
}
_MESSAGE: JsonSchema = {
    "type": "object",
    "properties": {
        "type": {"enum": [kind for kind in segment.KINDS if kind != segment.BATCH]},
        "event": answers.TEXT,
        **dict.fromkeys(("messageId", "userId", "anonymousId", "writeKey"), answers.TEXT_OR_NULL),
        "timestamp": answers.TIME,
        "properties": {"type": "object"},
        "traits": {"type": "object"},
        "context": {"type": "object"},
    },
}
_BATCH = an(
    batch=many(_MESSAGE) | {"minItems": 1, "maxItems": MAX_MESSAGES},
    maybe={"sentAt": {}, "writeKey": {}, "context": {"type": ["object", "null"]}},
)
_SDK_BODY = {JSON: {"anyOf": [_BATCH, _MESSAGE]}, **_OTHER_NAMES}
_USER = {"user_id": SOME_TEXT | {"maxLength": MAX_ID_LENGTH, "examples": ["ada"]}}


def _report(summary: str, name: str, answered: JsonSchema) -> Operation:
    return Operation(summary, Scope.READ, {200: answered, 202: answers.RUNNING}, query=REPORTS[name].schema)


OPERATIONS: dict[str, Operation] = {
    "POST /events": Operation(
        'Takes one event, an array, `{"events": [...]}`, NDJSON or CloudEvents.',
        Scope.WRITE,
        {202: VERDICTS_REF, 400: answers.NOTHING_ACCEPTED},
        body=_NATIVE_BODY,
        raises=(TooManyRequests,),
        keys=WRITE_KEYS,
    ),
    "POST /v1/{kind}": Operation(
        "Takes what Segment-compatible SDKs send: a batch, or one call of the kind, or of its first letter.",
        Scope.WRITE,
        {200: answers.SDK_VERDICTS},
        body=_SDK_BODY,
        raises=(NotFound, TooManyRequests),
        path={"kind": {"enum": list(segment.ROUTES)}},
        keys=WRITE_KEYS,
    ),
    "POST /beacon/v1/batch": Operation(
        "The same as a browser's beacon.",
        Scope.WRITE,
        {200: answers.SDK_VERDICTS},
        body={JSON: _BATCH, **_OTHER_NAMES},
        raises=(TooManyRequests,),
        keys=WRITE_KEYS,
    ),
    "GET /v1/projects/{key}/settings": Operation(
        "The settings that analytics.js asks its CDN for; the path has the write key.",
        Scope.WRITE,
        {200: answers.SETTINGS},
        keys=(),
    ),
    "GET /sourceConfig": Operation(
        "The settings that RudderStack's SDKs ask for.", Scope.WRITE, {200: answers.SOURCE_CONFIG}, keys=WRITE_KEYS
    ),
    "GET /analytics": Operation(
        "A metric over a range.",
        Scope.READ,
        {200: answers.ANALYTICS},
        query=QuestionParameters,
        raises=(NotFound,),
    ),
    "GET /aggregations/{event_type}": Operation(
        "The summary of a day and of each of its hours: events, users, measures, top values.",
        Scope.READ,
        {200: answers.AGGREGATION},
        query=SummaryParameters,
        raises=(NotFound,),
        path={"event_type": SOME_TEXT | {"examples": ["page_view"]}},
    ),
    "GET /realtime/metrics": Operation(
        "The last five minutes by arrival, the last hour by minute, and the ledger.",
        Scope.READ,
        {200: answers.REALTIME},
    ),
    "POST /realtime/tickets": Operation(
        "A single-use ticket for the WebSocket, valid for a minute.", Scope.READ, {201: answers.TICKET}
    ),
    "GET /users/{user_id}": Operation(
        "What was said of a user last, and the ids that are the same person.",
        Scope.READ,
        {200: answers.USER},
        raises=(InvalidRequest, NotFound),
        path=_USER,
    ),
    "GET /users/{user_id}/events": Operation(
        "A user's events of the last 30 days, newest first.",
        Scope.READ,
        {200: answers.TIMELINE},
        query=PageParameters,
        path=_USER,
    ),
    "DELETE /users/{user_id}": Operation(
        "Erases a user, everywhere, within hours; answers the receipt.",
        Scope.ADMIN,
        {202: answers.ERASURE},
        raises=(InvalidRequest,),
        path=_USER,
    ),
    "GET /erasures": Operation(
        "Every erasure, the latest first.", Scope.ADMIN, {200: answers.ERASURES}, query=PageParameters
    ),
    "GET /erasures/{erasure_id}": Operation(
        "How far an erasure is, and what was removed where.", Scope.ADMIN, {200: answers.ERASURE}, raises=(NotFound,)
    ),
    "GET /quarantine": Operation(
        "What was rejected, with the reasons and the events, newest first.",
        Scope.ADMIN,
        {200: answers.QUARANTINE},
        query=ListParameters,
    ),
    "POST /quarantine/replay": Operation(
        "Judges rejected events again, and stores those that pass now.",
        Scope.ADMIN,
        {200: answers.REPLAY},
        body=ReplayParameters,
    ),
    "GET /imports": Operation(
        "Files of history, the latest first: how far each is, and what was rejected.",
        Scope.READ,
        {200: answers.IMPORTS},
        query=PageParameters,
    ),
    "GET /anomalies": Operation(
        "Hours that are out of the ordinary, the latest first.",
        Scope.READ,
        {200: answers.ANOMALIES},
        query=AnomalyParameters,
    ),
    "POST /alerts": Operation(
        "Sets a threshold on a number of the last minutes; 200 if there is one that says the same.",
        Scope.ADMIN,
        {200: answers.ALERT, 201: answers.ALERT},
        body=AlertParameters,
    ),
    "GET /alerts": Operation("Every alert, and whether it fires.", Scope.READ, {200: answers.ALERTS}),
    "DELETE /alerts/{alert_id}": Operation(
        "Removes an alert.", Scope.ADMIN, {200: answers.DELETED}, raises=(NotFound,)
    ),
    "POST /annotations": Operation(
        "Notes a deploy, a campaign, an incident or anything else; 200 if the first of its id differs.",
        Scope.ADMIN,
        {200: answers.ANNOTATION, 201: answers.ANNOTATION},
        body=AnnotationParameters,
    ),
    "GET /annotations": Operation(
        "The annotations of a range, the latest first.", Scope.READ, {200: answers.ANNOTATIONS}, query=RangeParameters
    ),
    "POST /query": Operation(
        "Read-only SQL on the project's own `events`: rows, or 202 with an id after 20 s.",
        Scope.READ,
        {200: answers.ROWS, 202: answers.RUNNING},
        body=QueryBody,
        raises=(NotFound,),
    ),
    "GET /query/{query_id}": Operation(
        "The same query, or report, again; a page of its rows.",
        Scope.READ,
        {200: answers.RESULT, 202: answers.RUNNING},
        query=ResultParameters,
        raises=(NotFound,),
    ),
    "DELETE /query/{query_id}": Operation(
        "Ends a query that goes on.", Scope.READ, {200: answers.ENDED}, raises=(NotFound,)
    ),
    "POST /queries": Operation(
        "Saves a query under a name, in place of one that has it.",
        Scope.ADMIN,
        {200: answers.SAVED_QUERY},
        body=SavedQueryBody,
    ),
    "GET /queries": Operation("Every saved query.", Scope.READ, {200: answers.SAVED_QUERIES}),
    "DELETE /queries/{name}": Operation(
        "Removes a saved query.", Scope.ADMIN, {200: answers.DELETED}, raises=(NotFound,)
    ),
    "GET /reports/funnel": _report("How many users went through steps in order.", "funnel", answers.FUNNEL),
    "GET /reports/retention": _report("How many users came back, by cohort.", "retention", answers.RETENTION),
    "GET /reports/sessions": _report("How many sessions, how long, how full.", "sessions", answers.SESSIONS),
    "GET /reports/top": _report("A property's most frequent values.", "top", answers.TOP),
    "GET /reports/paths": _report("The most frequent paths of sessions.", "paths", answers.PATHS),
    "GET /schemas": Operation("Every event type with a contract.", None, {200: answers.SCHEMAS}),
    "GET /schemas/{event_type}": Operation(
        "Every version of a contract, whole.",
        None,
        {200: answers.SCHEMA},
        raises=(NotFound,),
        path={"event_type": SOME_TEXT | {"examples": ["page_view"]}},
    ),
    "GET /openapi.json": Operation("This document.", None, {200: answers.OPENAPI}),
    "GET /dashboard": Operation("The web page.", None, {200: answers.PAGE}, media_type="text/html"),
    "GET /health": Operation("Liveness and version.", None, {200: answers.HEALTH}),
}
