"""Tidemark's Chalice app: every route, socket, buffer, stream, bucket, bus and schedule.

Each handler calls one stage and returns; what a route is handed and how it answers is in chalicelib/http.
"""

import os
from functools import partial
from typing import Any

from chalice.app import Chalice, Cron, DynamoDBEvent, KinesisEvent, Rate, S3Event, SQSEvent, WebsocketEvent

from chalicelib import __version__, wiring
from chalicelib.access.access import Scope
from chalicelib.base import logs
from chalicelib.base.clock import now_ms
from chalicelib.base.time_windows import from_ms
from chalicelib.http import intake, websocket
from chalicelib.http.api import described
from chalicelib.http.calls import REPORT_NAMES, Call
from chalicelib.http.responses import Answer, page, query_answer, routing
from chalicelib.settings import ROOT, Sources
from chalicelib.triggers import BusEvent

app = Chalice(app_name="tidemark", configure_logs=False)
logs.configure()
rest = routing(app)
sources = Sources.from_environment(os.environ)


# REST: events in


@rest("POST", "/events")
def post_events(call: Call) -> Answer:
    return intake.take_native(call)


@rest("POST", "/v1/{kind}")
def post_segment(call: Call, kind: str) -> Answer:
    return intake.take_segment(call, kind)


@rest("POST", "/beacon/v1/batch")
def post_beacon(call: Call) -> Answer:
    return intake.take_segment(call, "batch")


@rest("GET", "/v1/projects/{key}/settings")
def get_segment_settings(call: Call, key: str) -> Answer:
    return intake.segment_settings(call, key)


@rest("GET", "/sourceConfig")
def get_source_config(call: Call) -> Answer:
    return intake.source_config(call)


# REST: numbers out


@rest("GET", "/analytics")
def get_analytics(call: Call) -> Answer:
    owner, question = call.project(Scope.READ), call.question
    numbers = wiring.stages().analytics.answer(owner.id, question, call.now_ms)
    return {**numbers, "annotations": wiring.stages().annotator.between(owner.id, question.start_ms, question.end_ms)}


@rest("GET", "/aggregations/{event_type}")
def get_aggregation(call: Call, event_type: str) -> Answer:
    return wiring.stages().summarizer.day(call.project(Scope.READ).id, event_type, call.day, call.now_ms)


@rest("GET", "/realtime/metrics")
def get_realtime_metrics(call: Call) -> Answer:
    return wiring.stages().observer.observe(call.project(Scope.READ).id, call.now_ms)


@rest("POST", "/realtime/tickets")
def post_ticket(call: Call) -> Answer:
    return wiring.stages().subscriber.issue_ticket(call.project(Scope.READ).id, call.now), 201


# REST: users


@rest("GET", "/users/{user_id}")
def get_user(call: Call, user_id: str) -> Answer:
    return wiring.stages().profiler.user(call.project(Scope.READ).id, user_id)


@rest("GET", "/users/{user_id}/events")
def get_user_events(call: Call, user_id: str) -> Answer:
    return wiring.stages().profiler.timeline(call.project(Scope.READ).id, user_id, *call.page)


@rest("DELETE", "/users/{user_id}")
def delete_user(call: Call, user_id: str) -> Answer:
    return wiring.stages().profiler.request_erasure(call.project(Scope.ADMIN).id, user_id, call.now_ms), 202


@rest("GET", "/erasures")
def get_erasures(call: Call) -> Answer:
    return wiring.stores().erasures.page(call.project(Scope.ADMIN).id, *call.page)


@rest("GET", "/erasures/{erasure_id}")
def get_erasure(call: Call, erasure_id: str) -> Answer:
    return wiring.stages().profiler.erasure(call.project(Scope.ADMIN).id, erasure_id)


# REST: what was rejected


@rest("GET", "/quarantine")
def get_quarantine(call: Call) -> Answer:
    return wiring.stages().replayer.show(call.project(Scope.ADMIN).id, call.rejected)


@rest("POST", "/quarantine/replay")
def post_replay(call: Call) -> Answer:
    return wiring.stages().replayer.replay(call.project(Scope.ADMIN), call.replayed, call.now_ms)


# REST: SQL and reports


@rest("POST", "/query")
def post_query(call: Call) -> Answer:
    owner = call.project(Scope.READ)
    return query_answer(wiring.stages().query_runner.run(call.query, owner.id, call.now))


@rest("GET", "/query/{query_id}")
def get_query(call: Call, query_id: str) -> Answer:
    owner = call.project(Scope.READ)
    return query_answer(wiring.stages().query_runner.answer(query_id, owner.id, call.result))


@rest("DELETE", "/query/{query_id}")
def delete_query(call: Call, query_id: str) -> Answer:
    return wiring.stages().query_runner.cancel(query_id, call.project(Scope.READ).id)


@rest("POST", "/queries")
def post_saved_query(call: Call) -> Answer:
    owner = call.project(Scope.ADMIN)
    return wiring.stages().query_runner.save(call.query_to_save, owner.id, call.now)


@rest("GET", "/queries")
def get_saved_queries(call: Call) -> Answer:
    return wiring.stages().query_runner.show_saved(call.project(Scope.READ).id)


@rest("DELETE", "/queries/{name}")
def delete_saved_query(call: Call, name: str) -> Answer:
    wiring.stages().query_runner.forget(name, call.project(Scope.ADMIN).id)
    return {"deleted": name}


def get_report(call: Call, *, name: str) -> Answer:
    owner = call.project(Scope.READ)
    return query_answer(wiring.stages().query_runner.report(name, call.parameters, owner.id, call.now))


for report in REPORT_NAMES:
    rest("GET", f"/reports/{report}", name=f"get_{report}_report")(partial(get_report, name=report))


# REST: imports, contracts and the API itself


@rest("GET", "/imports")
def get_imports(call: Call) -> Answer:
    return wiring.stores().imports.page(call.project(Scope.READ).id, *call.page)


@rest("GET", "/schemas")
def get_schemas(_call: Call) -> Answer:
    return {"schemas": wiring.contracts().catalogue()}


@rest("GET", "/schemas/{event_type}")
def get_schema(_call: Call, event_type: str) -> Answer:
    return wiring.contracts().described(event_type)


@rest("GET", "/openapi.json")
def get_openapi(call: Call) -> Answer:
    return described(app.routes, wiring.contracts(), call.address(below="/openapi.json"))


@rest("GET", "/dashboard")
def get_dashboard(_call: Call) -> Answer:
    return page(ROOT / "dashboard" / "index.html")


@rest("GET", "/health")
def get_health(_call: Call) -> Answer:
    return {"status": "ok", "version": __version__, "stage": os.environ.get("STAGE", "dev")}


# REST: what should be known beside the numbers


@rest("GET", "/anomalies")
def get_anomalies(call: Call) -> Answer:
    return wiring.stages().annotator.show_anomalies(call.project(Scope.READ).id, call.anomalies)


@rest("POST", "/alerts")
def post_alert(call: Call) -> Answer:
    alert, new = wiring.stages().watcher.create(call.project(Scope.ADMIN).id, call.document, call.now_ms)
    return alert, 201 if new else 200


@rest("GET", "/alerts")
def get_alerts(call: Call) -> Answer:
    return wiring.stages().watcher.show(call.project(Scope.READ).id)


@rest("DELETE", "/alerts/{alert_id}")
def delete_alert(call: Call, alert_id: str) -> Answer:
    wiring.stages().watcher.delete(call.project(Scope.ADMIN).id, alert_id)
    return {"deleted": alert_id}


@rest("POST", "/annotations")
def post_annotation(call: Call) -> Answer:
    annotation, as_sent = wiring.stages().annotator.create(call.project(Scope.ADMIN).id, call.document, call.now_ms)
    return annotation, 201 if as_sent else 200


@rest("GET", "/annotations")
def get_annotations(call: Call) -> Answer:
    return wiring.stages().annotator.show(call.project(Scope.READ).id, call.range)


# WebSocket


@app.on_ws_connect(name="socket_connect")
def socket_connect(event: WebsocketEvent) -> dict[str, Any]:
    return websocket.connect(event)


@app.on_ws_message(name="socket_message")
def socket_message(event: WebsocketEvent) -> dict[str, Any]:
    return websocket.message(event)


@app.on_ws_disconnect(name="socket_disconnect")
def socket_disconnect(event: WebsocketEvent) -> dict[str, Any]:
    return websocket.disconnect(event)


# Buffer, streams, bucket and bus


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
    wiring.stages().aggregator.aggregate(event.to_dict()["Records"], now_ms())


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
    wiring.stages().pusher.push(event.to_dict()["Records"], now_ms() // 1000)


@app.on_s3_event(bucket=sources.data_bucket, events=["s3:ObjectCreated:*"], prefix="spill/", name="reinject")
def reinject(event: S3Event) -> None:
    wiring.stages().collector.reinject(event.key)


@app.on_s3_event(bucket=sources.data_bucket, events=["s3:ObjectCreated:*"], prefix="raw/", name="start_import")
def start_import(event: S3Event) -> None:
    wiring.stages().import_starter.start(event.to_dict()["Records"][0])


@app.on_cw_event(sources.bus_pattern, name="take_bus_event")
def take_bus_event(event: BusEvent) -> None:
    wiring.stages().receiver.receive(event.to_dict(), now_ms())


take_bus_event.event_class = BusEvent


# Schedules


@app.schedule(Rate(1, unit=Rate.MINUTES), name="compact")
def compact(_event: object) -> None:
    wiring.stages().compactor.compact(now_ms() // 1000)


@app.schedule(Cron(40, "*", "*", "*", "?", "*"), name="reconcile")
def reconcile(_event: object) -> None:
    wiring.lake_stages().reconciler.run(wiring.stores().access.names(), now_ms() // 1000)


@app.schedule(Rate(5, unit=Rate.MINUTES), name="erase")
def erase(_event: object) -> None:
    if wiring.stores().erasures.open():  # before pyarrow is loaded, for there hardly ever is one
        wiring.lake_stages().eraser.run()


@app.schedule(Rate(1, unit=Rate.MINUTES), name="audit")
def audit(_event: object) -> None:
    spilled = wiring.stages().collector.sweep(from_ms(now_ms()))
    wiring.stages().auditor.audit(now_ms() // 1000, spilled)


@app.schedule(Rate(1, unit=Rate.MINUTES), name="watch")
def watch(_event: object) -> None:
    wiring.stages().watcher.watch(now_ms())


@app.schedule(Cron(10, "*", "*", "*", "?", "*"), name="start_hourly")
def start_hourly(_event: object) -> None:
    wiring.stores().hourly_workflow.start(f"{from_ms(now_ms()):%Y%m%dT%H}", {})


# Tasks of infra/workflows/hourly.asl.json


@app.lambda_function(name="consolidate")
def consolidate(_task: object, _context: object) -> dict[str, Any]:
    return wiring.lake_stages().finisher.consolidate_due(now_ms())


@app.lambda_function(name="close")
def close(task: dict[str, Any], _context: object) -> dict[str, int]:
    return wiring.lake_stages().finisher.finish_all(task["hours"], now_ms(), failed=task["failed"])


@app.lambda_function(name="detect")
def detect(_task: object, _context: object) -> int:
    return wiring.lake_stages().detector.detect(now_ms())


@app.lambda_function(name="notify")
def notify(_task: object, _context: object) -> int:
    return wiring.lake_stages().detector.tell(now_ms())


# Tasks of infra/workflows/import.asl.json


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
    return wiring.lake_stages().importer.store(task, now_ms())


@app.lambda_function(name="import_notify")
def import_notify(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.notify(task, now_ms())


@app.lambda_function(name="import_fail")
def import_fail(task: dict[str, Any], _context: object) -> dict[str, Any]:
    return wiring.lake_stages().importer.fail(task, now_ms())
