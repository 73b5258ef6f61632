"""Tidemark's Chalice app: every route, socket, buffer, stream, bucket, bus and schedule.

Each handler parses, calls one stage and returns; the business logic is in chalicelib.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property, partial, wraps
from typing import Any
from urllib.parse import unquote

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from chalice.app import (
    Chalice,
    CloudWatchEvent,
    CORSConfig,
    Cron,
    DynamoDBEvent,
    KinesisEvent,
    Rate,
    Request,
    Response,
    S3Event,
    SQSEvent,
    WebsocketEvent,
)

from chalicelib import __version__, logs, wiring
from chalicelib.domain import bodies, segment
from chalicelib.domain.access import Project, Scope, key_of
from chalicelib.domain.annotations import read_anomalies, read_range
from chalicelib.domain.bus import is_notice, read_bus_event
from chalicelib.domain.enrichment import Client, client_of
from chalicelib.domain.errors import (
    Forbidden,
    HoursNotCompacted,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    TidemarkError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from chalicelib.domain.events import Admission
from chalicelib.domain.imports import Import
from chalicelib.domain.parameters import read_page
from chalicelib.domain.query_requests import REPORT_NAMES, read_query, read_result, read_saved
from chalicelib.domain.questions import read_question
from chalicelib.domain.selections import read_list, read_replay
from chalicelib.domain.summaries import read_day
from chalicelib.domain.time_windows import to_ms
from chalicelib.settings import ROOT, Sources

app = Chalice(app_name="tidemark", configure_logs=False)
logs.configure()
app.experimental_feature_flags.update(["WEBSOCKETS"])
# Bodies that API Gateway must hand on as bytes: what SDKs call their gzip. Chalice's own dozen of images and archives
# would be looked through three times a request.
app.api.binary_types[:] = ["application/octet-stream", "application/x-www-form-urlencoded", "application/gzip"]


class Cors(CORSConfig):
    """Headers that are put together once: Chalice would do it for each answer."""

    @cached_property
    def _made(self) -> dict[str, str]:
        return super().get_access_control_headers()

    def get_access_control_headers(self) -> dict[str, str]:
        """A copy of them."""
        return dict(self._made)


# Any page's script may send and read, without cookies: a preflight's answer is fixed, so it cannot name the page.
CORS = Cors(
    allow_headers=[
        *("X-Retry-Count", "AnonymousId", "SentAt"),  # beside Chalice's own: what browser SDKs send
        *(f"Rsa-{name}" for name in ("Recovered", "Retry-Attempt", "Retry-Reason")),
        *("Rsa-Since-First-Attempt", "Rsa-Since-Last-Attempt"),
    ],
    expose_headers=["Retry-After", "X-RateLimit-Reset"],
    max_age=7200,  # what browsers remember at most
)
app.api.cors = CORS
sources = Sources.from_environment(os.environ)

# Checked in raw_body, because Chalice refuses a route that lists types of both kinds, those handed on as bytes and
# those as text.
ANY_TYPE = ["*/*"]
STATUS = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    TooManyRequests: 429,
    Unavailable: 503,
}
DASHBOARD_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self' ws: wss:; img-src data:"
)


def now() -> datetime:
    """The clock that handlers hand to the stages."""
    return datetime.now(UTC)


def answer(document: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    body = orjson.dumps(document).decode()
    return Response(body, status_code=status, headers={"Content-Type": "application/json", **(headers or {})})


@app.middleware("http")
def every_answer(event: Request, get_response: Callable[[Request], Response]) -> Response:
    """Chalice's own errors in the form of ours, with `code` and `message`; and every answer readable by its page."""
    response = get_response(event)
    if origin := event.headers.get("origin"):
        response.headers |= CORS.get_access_control_headers()  # errors of Chalice's own come without
        response.headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if isinstance(response.body, dict) and "Code" in response.body:
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", response.body["Code"].removesuffix("Error")).lower()
        response.body = {"code": code, "message": response.body["Message"]}
    return response


def refusals(view: Callable[..., Response]) -> Callable[..., Response]:
    """Answer domain errors with their status. Around each route, because Chalice makes a 500 of what escapes one."""

    @wraps(view)
    def answered(**arguments: str) -> Response:
        try:
            return view(**arguments)
        except (BotoCoreError, ClientError) as cause:
            app.log.warning("store failed", extra={"reason": str(cause), "path": request().path})
            error: TidemarkError = Unavailable("a store does not answer; send the same again")
        except TidemarkError as refusal:
            error = refusal
            app.log.info("refused", extra={"code": error.code, "path": request().path})
        return answer({"code": error.code, "message": error.message}, STATUS[type(error)], retry_headers(error))

    return answered


def retry_headers(error: TidemarkError) -> dict[str, str]:
    """When to try again, in seconds, as the SDKs read it."""
    if error.retry_seconds is None:
        return {}
    seconds = str(error.retry_seconds)
    limited = {"X-RateLimit-Reset": seconds} if isinstance(error, TooManyRequests) else {}
    return {"Retry-After": seconds, **limited}


def request() -> Request:
    """The request being served."""
    served = app.current_request
    assert served is not None, "called outside of a request"
    return served


def parameters() -> Mapping[str, str]:
    """The query string; raises InvalidRequest for a parameter that is there more than once."""
    found = request().query_params
    for name in found or ():
        if found and (times := len(found.getlist(name))) > 1:
            raise InvalidRequest(f"{name}: given {times} times; once is allowed", code="invalid_parameter")
    return found or {}


def raw_body() -> bytes:
    """The request's body as it was sent; raises UnsupportedMediaType."""
    bodies.media_type_of(request().headers)
    body = request().raw_body
    return body.encode(errors="replace") if isinstance(body, str) else body


def project(scope: Scope) -> Project:
    """The project that the request's key stands for."""
    return wiring.stages().authorizer.project(request().headers, scope)


def client(owner: Project) -> Client:
    """What may be kept of who sent the request."""
    source_ip = request().context["identity"].get("sourceIp") or ""
    return client_of(request().headers, source_ip, owner.salt, now())


def write_key(body_key: str | None = None) -> str | None:
    """The key of the headers, else of the body, else of the query, which is all that a beacon has for it."""
    return key_of(request().headers) or body_key or dict(request().query_params or ()).get("writeKey")


def writer(body_key: str | None = None) -> Project:
    """The project that the request may write to."""
    return wiring.stages().authorizer.project_of_key(write_key(body_key), Scope.WRITE)


# REST: events in


@app.route("/events", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_events() -> Response:
    owner = writer()
    read = bodies.read_native(raw_body(), request().headers)
    admission = admitted(read, owner)
    return answer(verdicts(admission, read), 202 if admission.event_ids else 400)


@app.route("/v1/{kind}", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_segment(kind: str) -> Response:
    if kind not in segment.ROUTES:
        raise NotFound(f"/v1/{kind[:32]} does not exist; there are {', '.join(segment.KINDS)}")
    if segment.ROUTES[kind] == segment.METRICS:
        return answer(
            {"success": True}
        )  # what analytics.js reports of itself, without a key: dropped, for it is no event
    return collected(segment.ROUTES[kind])


@app.route("/beacon/v1/batch", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_beacon() -> Response:
    return collected(segment.BATCH)


def collected(kind: str) -> Response:
    """The answer to an SDK; anything but 200 makes some of them send everything again, or drop it."""
    if key_of(request().headers):
        writer()  # before the body is read, which only an SDK that sends its key there makes necessary
    read = bodies.read_segment(raw_body(), kind)
    owner = writer(read.write_key)
    admission = admitted(read, owner)
    return answer({"success": True, **verdicts(admission, read)})


@app.route("/v1/projects/{key}/settings", methods=["GET"])
@refusals
def get_segment_settings(key: str) -> Response:
    wiring.stages().authorizer.project_of_key(key, Scope.WRITE)
    return answer(segment.settings(key, address(below="/v1/projects/")))


@app.route("/sourceConfig", methods=["GET"])
@refusals
def get_source_config() -> Response:
    return answer(segment.source_config(write_key(), writer().id))


def address(below: str) -> str:
    """Where the caller reached this API, with the stage that API Gateway puts before every path."""
    stage = request().context["path"].partition(below)[0]
    return f"{request().headers.get('x-forwarded-proto', 'http')}://{request().headers.get('host', '')}{stage}"


def admitted(read: bodies.Request, owner: Project) -> Admission:
    """What became of a request's events, which are all refused when the key has sent too many."""
    received_ms = to_ms(now())
    wiring.stages().throttle.take(owner.allowance, len(read.events), received_ms)
    return wiring.stages().collector.collect(read, owner, received_ms, client(owner))


def verdicts(admission: Admission, read: bodies.Request) -> dict[str, Any]:
    """What a client is told of its events."""
    body: dict[str, Any] = {
        "accepted": len(admission.event_ids),
        "rejected": [read.answer(rejection) for rejection in admission.rejections],
        "event_ids": admission.event_ids,
    }
    if not admission.event_ids:
        body |= {"code": "nothing_accepted", "message": "none of the events was accepted; see rejected for each reason"}
    return body | ({"warnings": admission.warnings} if admission.warnings else {})


# REST: numbers out


@app.route("/analytics", methods=["GET"])
@refusals
def get_analytics() -> Response:
    owner, question = project(Scope.READ), read_question(parameters())
    numbers = wiring.stages().analytics.answer(owner.id, question, to_ms(now()))
    beside = wiring.stages().annotator.between(owner.id, question.start_ms, question.end_ms)
    return answer({**numbers, "annotations": beside})


@app.route("/aggregations/{event_type}", methods=["GET"])
@refusals
def get_aggregation(event_type: str) -> Response:
    owner, day = project(Scope.READ), read_day(parameters())
    return answer(wiring.stages().summarizer.day(owner.id, unquote(event_type), day, to_ms(now())))


@app.route("/realtime/metrics", methods=["GET"])
@refusals
def get_realtime_metrics() -> Response:
    return answer(wiring.stages().observer.observe(project(Scope.READ).id, to_ms(now())))


@app.route("/realtime/tickets", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_ticket() -> Response:
    return answer(wiring.stages().subscriber.issue_ticket(project(Scope.READ).id, now()), 201)


@app.route("/users/{user_id}", methods=["GET"])
@refusals
def get_user(user_id: str) -> Response:
    return answer(wiring.stages().profiler.user(project(Scope.READ).id, unquote(user_id)))


@app.route("/users/{user_id}/events", methods=["GET"])
@refusals
def get_user_events(user_id: str) -> Response:
    owner = project(Scope.READ)
    page = read_page(parameters())
    return answer(wiring.stages().profiler.timeline(owner.id, unquote(user_id), page.limit, page.before))


@app.route("/users/{user_id}", methods=["DELETE"])
@refusals
def delete_user(user_id: str) -> Response:
    owner = project(Scope.ADMIN)
    return answer(wiring.stages().profiler.request_erasure(owner.id, unquote(user_id), to_ms(now())), 202)


@app.route("/erasures", methods=["GET"])
@refusals
def get_erasures() -> Response:
    owner = project(Scope.ADMIN)
    page = read_page(parameters())
    return answer(wiring.stores().erasures.page(owner.id, page.limit, page.before))


@app.route("/erasures/{erasure_id}", methods=["GET"])
@refusals
def get_erasure(erasure_id: str) -> Response:
    return answer(wiring.stages().profiler.erasure(project(Scope.ADMIN).id, erasure_id))


@app.route("/quarantine", methods=["GET"])
@refusals
def get_quarantine() -> Response:
    owner = project(Scope.ADMIN)
    return answer(wiring.stages().replayer.show(owner.id, read_list(parameters())))


@app.route("/quarantine/replay", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_replay() -> Response:
    owner = project(Scope.ADMIN)
    selection = read_replay(bodies.read_object(raw_body()))
    return answer(wiring.stages().replayer.replay(owner, selection, to_ms(now())))


@app.route("/query", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_query() -> Response:
    owner = project(Scope.READ)
    asked = read_query(bodies.read_object(raw_body()))
    return answer_of_query(wiring.stages().query_runner.run(asked, owner.id, now()))


@app.route("/query/{query_id}", methods=["GET"])
@refusals
def get_query(query_id: str) -> Response:
    owner = project(Scope.READ)
    page = read_result(parameters())
    return answer_of_query(wiring.stages().query_runner.answer(query_id, owner.id, page))


@app.route("/query/{query_id}", methods=["DELETE"])
@refusals
def delete_query(query_id: str) -> Response:
    return answer(wiring.stages().query_runner.cancel(query_id, project(Scope.READ).id))


@app.route("/queries", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_saved_query() -> Response:
    owner = project(Scope.ADMIN)
    return answer(wiring.stages().query_runner.save(read_saved(bodies.read_object(raw_body())), owner.id, now()))


@app.route("/queries", methods=["GET"])
@refusals
def get_saved_queries() -> Response:
    return answer(wiring.stages().query_runner.show_saved(project(Scope.READ).id))


@app.route("/queries/{name}", methods=["DELETE"])
@refusals
def delete_saved_query(name: str) -> Response:
    wiring.stages().query_runner.forget(unquote(name), project(Scope.ADMIN).id)
    return answer({"deleted": name})


def get_report(name: str) -> Response:
    found = wiring.stages().query_runner.report(name, parameters(), project(Scope.READ).id, now())
    return answer_of_query(found)


for report_name in REPORT_NAMES:
    app.route(f"/reports/{report_name}", methods=["GET"], name=f"get_{report_name}_report")(
        refusals(partial(get_report, report_name))
    )


def answer_of_query(found: dict[str, Any]) -> Response:
    """202 while it goes on."""
    return answer(found, 202 if found["state"] in ("QUEUED", "RUNNING") else 200)


@app.route("/imports", methods=["GET"])
@refusals
def get_imports() -> Response:
    owner = project(Scope.READ)
    page = read_page(parameters())
    return answer(wiring.stores().imports.page(owner.id, page.limit, page.before))


@app.route("/schemas", methods=["GET"])
@refusals
def get_schemas() -> Response:
    return answer({"schemas": wiring.contracts().catalogue()})


@app.route("/schemas/{event_type}", methods=["GET"])
@refusals
def get_schema(event_type: str) -> Response:
    return answer(wiring.contracts().described(unquote(event_type)))


@app.route("/openapi.json", methods=["GET"])
@refusals
def get_openapi() -> Response:
    # Imported here, because no other route needs it.
    from chalicelib.domain.api import described

    return answer(described(app.routes, STATUS, wiring.contracts(), address(below="/openapi.json")))


@app.route("/dashboard", methods=["GET"])
@refusals
def get_dashboard() -> Response:
    page = (ROOT / "dashboard" / "index.html").read_text()
    return Response(
        page, headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": DASHBOARD_POLICY}
    )


@app.route("/health", methods=["GET"])
@refusals
def get_health() -> Response:
    return answer({"status": "ok", "version": __version__, "stage": os.environ.get("STAGE", "dev")})


# REST: what should be known beside the numbers


@app.route("/anomalies", methods=["GET"])
@refusals
def get_anomalies() -> Response:
    owner = project(Scope.READ)
    return answer(wiring.stages().annotator.show_anomalies(owner.id, read_anomalies(parameters())))


@app.route("/alerts", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_alert() -> Response:
    owner = project(Scope.ADMIN)
    alert, new = wiring.stages().watcher.create(owner.id, bodies.read_object(raw_body()), to_ms(now()))
    return answer(alert, 201 if new else 200)


@app.route("/alerts", methods=["GET"])
@refusals
def get_alerts() -> Response:
    return answer(wiring.stages().watcher.show(project(Scope.READ).id))


@app.route("/alerts/{alert_id}", methods=["DELETE"])
@refusals
def delete_alert(alert_id: str) -> Response:
    wiring.stages().watcher.delete(project(Scope.ADMIN).id, unquote(alert_id))
    return answer({"deleted": alert_id})


@app.route("/annotations", methods=["POST"], content_types=ANY_TYPE)
@refusals
def post_annotation() -> Response:
    owner = project(Scope.ADMIN)
    annotation, as_sent = wiring.stages().annotator.create(owner.id, bodies.read_object(raw_body()), to_ms(now()))
    return answer(annotation, 201 if as_sent else 200)


@app.route("/annotations", methods=["GET"])
@refusals
def get_annotations() -> Response:
    owner = project(Scope.READ)
    return answer(wiring.stages().annotator.show(owner.id, read_range(parameters())))


# WebSocket


@app.on_ws_connect(name="socket_connect")
def socket_connect(event: WebsocketEvent) -> dict[str, Any]:
    ticket = (event.to_dict().get("queryStringParameters") or {}).get("ticket")
    try:
        wiring.stages().subscriber.connect(event.connection_id, event.domain_name, event.stage, ticket, now())
    except Unauthenticated:
        return {"statusCode": 401}
    return {"statusCode": 200}


@app.on_ws_message(name="socket_message")
def socket_message(event: WebsocketEvent) -> dict[str, Any]:
    wiring.stages().subscriber.message(event.connection_id, event.body, now(), event.domain_name, event.stage)
    return {"statusCode": 200}


@app.on_ws_disconnect(name="socket_disconnect")
def socket_disconnect(event: WebsocketEvent) -> dict[str, Any]:
    wiring.stages().subscriber.disconnect(event.connection_id)
    return {"statusCode": 200}


# Buffer, streams, bucket, bus and schedule


on_buffer = (
    app.on_kinesis_record(sources.buffer_stream, batch_size=200, starting_position="TRIM_HORIZON", name="process")
    if sources.buffer == "kinesis"
    else app.on_sqs_message(queue=sources.events_queue, batch_size=10, name="process")
)


@on_buffer  # the other source need not exist
def process(event: SQSEvent | KinesisEvent) -> dict[str, Any]:
    failed = wiring.stages().processor.process(event.to_dict()["Records"])
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


@app.on_dynamodb_record(sources.events_stream_arn, batch_size=1000, starting_position="TRIM_HORIZON", name="aggregate")
def aggregate(event: DynamoDBEvent) -> None:
    wiring.stages().aggregator.aggregate(event.to_dict()["Records"], to_ms(now()))


@app.on_dynamodb_record(
    sources.events_stream_arn,
    batch_size=5000,
    starting_position="TRIM_HORIZON",
    maximum_batching_window_in_seconds=sources.archive_window_seconds,
    name="archive",
)
def archive(event: DynamoDBEvent) -> None:
    wiring.lake_stages().archiver.archive(event.to_dict()["Records"])


@app.on_dynamodb_record(sources.rollups_stream_arn, batch_size=100, starting_position="TRIM_HORIZON", name="live")
def live(event: DynamoDBEvent) -> None:
    wiring.stages().pusher.push(event.to_dict()["Records"], int(time.time()))


@app.on_s3_event(bucket=sources.data_bucket, events=["s3:ObjectCreated:*"], prefix="spill/", name="reinject")
def reinject(event: S3Event) -> None:
    wiring.stages().collector.reinject(event.key)


class BusEvent(CloudWatchEvent):
    """An event of the bus of which nothing is taken for granted: Chalice's raises KeyError where a field is missing."""

    def _extract_attributes(self, event_dict: dict[str, Any]) -> None:
        """Leave all of it to `to_dict`."""


@app.on_cw_event(sources.bus_pattern, name="take_bus_event")
def take_bus_event(event: BusEvent) -> None:
    if is_notice(event.to_dict()):
        return
    owner = wiring.stages().authorizer.project_of_bus(wiring.settings().bus_project)
    wiring.stages().collector.collect(read_bus_event(event.to_dict()), owner, to_ms(now()))


take_bus_event.event_class = BusEvent


@app.on_s3_event(bucket=sources.data_bucket, events=["s3:ObjectCreated:*"], prefix="raw/", name="start_import")
def start_import(event: S3Event) -> None:
    if one := Import.of_notification(event.to_dict()["Records"][0]):
        wiring.stores().import_workflow.start(one.id, {"import": one.to_json()})


@app.schedule(Rate(1, unit=Rate.MINUTES), name="compact")
def compact(_event: object) -> None:
    wiring.stages().compactor.compact(int(time.time()))


@app.schedule(Cron(40, "*", "*", "*", "?", "*"), name="reconcile")
def reconcile(_event: object) -> None:
    wiring.lake_stages().reconciler.run(wiring.stores().access.names(), int(time.time()))


@app.schedule(Rate(5, unit=Rate.MINUTES), name="erase")
def erase(_event: object) -> None:
    if wiring.stores().erasures.open():  # before pyarrow is loaded, for there hardly ever is one
        wiring.lake_stages().eraser.run()


@app.schedule(Rate(1, unit=Rate.MINUTES), name="audit")
def audit(_event: object) -> None:
    spilled = wiring.stages().collector.sweep(now())
    wiring.stages().auditor.audit(int(time.time()), spilled)


@app.schedule(Rate(1, unit=Rate.MINUTES), name="watch")
def watch(_event: object) -> None:
    wiring.stages().watcher.watch(to_ms(now()))


@app.schedule(Cron(10, "*", "*", "*", "?", "*"), name="start_hourly")
def start_hourly(_event: object) -> None:
    wiring.stores().hourly_workflow.start(f"{now():%Y%m%dT%H}", {})


# Tasks of infra/workflows/hourly.asl.json.


@app.lambda_function(name="consolidate")
def consolidate(_task: object, _context: object) -> dict[str, Any]:
    return wiring.lake_stages().finisher.consolidate_due(to_ms(now()))


@app.lambda_function(name="close")
def close(task: dict[str, Any], _context: object) -> dict[str, int]:
    closed = wiring.lake_stages().finisher.finish_all(task["hours"], to_ms(now()))
    if task["failed"]:
        raise HoursNotCompacted(f"{task['failed']} hours could not be consolidated; the log of `consolidate` says why")
    return closed


@app.lambda_function(name="detect")
def detect(_task: object, _context: object) -> int:
    return wiring.lake_stages().detector.detect(to_ms(now()))


@app.lambda_function(name="notify")
def notify(_task: object, _context: object) -> int:
    return wiring.lake_stages().detector.tell(to_ms(now()))


# Tasks of infra/workflows/import.asl.json.


@app.lambda_function(name="import_validate")
def import_validate(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.validate(task)


@app.lambda_function(name="import_transform")
def import_transform(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.transform(task)


@app.lambda_function(name="import_aggregate")
def import_aggregate(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.aggregate(task)


@app.lambda_function(name="import_store")
def import_store(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.store(task, to_ms(now()))


@app.lambda_function(name="import_notify")
def import_notify(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.notify(task, to_ms(now()))


@app.lambda_function(name="import_fail")
def import_fail(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.fail(task, to_ms(now()))
