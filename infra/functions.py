"""Every Lambda function, once: trigger, time-out, memory, layer, alarms, permissions.

`make functions` writes from this table what Chalice, CloudFormation and Lambda read. tests/infra/test_functions.py
fails where a written file, or a decorator of app.py, differs from the table.
"""

from dataclasses import dataclass

from infra.alarms import HOUR_SECONDS, STAGE_ALARMS, Alarm, Fails, Late
from infra.event_sources import Buffer, Bus, Rest, Schedule, Socket, TableStream, Task, Trigger, Upload
from infra.grants import (
    CONTROL,
    EVENTS,
    ROLLUPS,
    Grant,
    answers_requests,
    clears_hours,
    closes,
    collects,
    consolidates,
    control,
    ends_connections,
    erases_everywhere,
    follows_erasures,
    items,
    keeps_failed_events,
    keeps_unreadable,
    knows_erased_users,
    marks_hours,
    notes_progress,
    notifies,
    objects,
    pushes,
    queries_lake,
    reads_buffer,
    reads_history,
    reads_open_index,
    reads_raw,
    reads_rollups,
    reads_staged,
    reads_stream,
    reinjects,
    replays,
    starts,
    writes_receipts,
)

TIMEOUT_SECONDS = 30  # of a function that names none; also how long a route may take
MEMORY_MB = 512
LARGE_MB = 3008  # of the functions that hold an hour of the lake; accounts begin with it as their limit

CHUNK_KEYS = {"sk": {"S": [{"prefix": "1"}, {"prefix": "2"}]}}  # sort keys that are times: 2001 to 2065
CHUNK_MADE = {"eventName": ["INSERT"], "dynamodb": {"Keys": CHUNK_KEYS}}
CHUNK_WRITTEN = {"eventName": ["INSERT", "MODIFY"], "dynamodb": {"Keys": CHUNK_KEYS}}
DELTA = {"dynamodb": {"Keys": {"sk": {"S": [{"prefix": "d#"}]}}}}
HOUR_CLOSED = {"dynamodb": {"NewImage": {"closed_at": {"N": [{"exists": True}]}}}}


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `name` is Chalice's; `handler` is the name in app.py, where it is another one.

    `layer`: the function imports pyarrow or numpy, which are in the lake layer and not in the zip.
    """

    name: str
    trigger: Trigger
    grants: tuple[Grant, ...]
    timeout_seconds: int = TIMEOUT_SECONDS
    memory_mb: int = MEMORY_MB
    layer: bool = False
    alarms: tuple[Fails | Late, ...] = ()
    handler: str = ""

    @property
    def app_name(self) -> str:
        """What app.py calls it."""
        return self.handler or self.name

    def lambda_name(self, stage: str) -> str:
        """Return what Lambda calls it: Chalice names the REST API's function after the app alone."""
        return f"tidemark-{stage}" if isinstance(self.trigger, Rest) else f"tidemark-{stage}-{self.name}"


FUNCTIONS = (
    # The two APIs
    Function(
        "api_handler",
        Rest(),
        handler="app",
        memory_mb=1024,
        grants=(*answers_requests(), *collects(), *replays(), *queries_lake()),
    ),
    Function(
        "websocket_connect",
        Socket("$connect"),
        handler="socket_connect",
        timeout_seconds=10,
        grants=(control("ticket", "DeleteItem"), control("connection sockets", "PutItem")),
    ),
    Function(
        "websocket_message",
        Socket("$default"),
        handler="socket_message",
        memory_mb=1024,
        alarms=(Fails("socket-errors", "Dashboards cannot subscribe"),),
        grants=(
            control("connection sockets", "DeleteItem", "GetItem"),
            control("sockets", "UpdateItem"),
            control("late", "Query"),
            *reads_history(),
            pushes("DELETE", "POST"),
        ),
    ),
    Function(
        "websocket_disconnect",
        Socket("$disconnect"),
        handler="socket_disconnect",
        timeout_seconds=10,
        grants=(control("connection", "GetItem"), ends_connections()),
    ),
    # Buffer and streams
    Function(
        "process",
        Buffer(),
        timeout_seconds=60,
        alarms=(Fails(), Late(5, "events wait for 5 minutes", stream="its Kinesis stream")),
        grants=(
            *reads_buffer(),
            items(EVENTS, "BatchGetItem", "BatchWriteItem", "GetItem", "PutItem"),
            knows_erased_users(),
            writes_receipts(),
            keeps_unreadable(),
        ),
    ),
    Function(
        "aggregate",
        TableStream(EVENTS, (CHUNK_WRITTEN,)),
        timeout_seconds=60,
        memory_mb=1024,
        alarms=(Fails(), Late(5, "live numbers are 5 minutes late")),
        grants=(*reads_stream(EVENTS), items(ROLLUPS, "PutItem", "Query"), keeps_unreadable()),
    ),
    Function(
        "archive",
        TableStream(EVENTS, (CHUNK_MADE,)),
        timeout_seconds=120,
        memory_mb=1024,
        layer=True,
        alarms=(Fails(), Late(15, "the lake is 15 minutes late")),
        grants=(
            *reads_stream(EVENTS),
            knows_erased_users(),
            objects("lake/*", "PutObject"),
            marks_hours("UpdateItem"),
        ),
    ),
    Function(
        "live",
        TableStream(ROLLUPS, (DELTA, HOUR_CLOSED)),
        timeout_seconds=60,
        alarms=(Fails(), Late(1, "dashboards are a minute late")),
        grants=(
            *reads_stream(ROLLUPS),
            control("sockets", "Query"),
            control("late", "PutItem"),
            ends_connections(),
            pushes("DELETE", "POST"),
        ),
    ),
    # Bucket and bus
    Function("reinject", Upload("spill/"), grants=reinjects()),
    Function(
        "take_bus_event",
        Bus(),
        alarms=(Fails("bus-errors"),),
        grants=(control("project", "GetItem"), *collects(), keeps_failed_events()),
    ),
    Function(
        "start_import",
        Upload("raw/"),
        alarms=(
            Fails(
                "import-start-errors", "The import of a file is not started", seconds=300, resource="ImportStartAlarm"
            ),
        ),
        grants=(starts("import"),),
    ),
    # Schedules
    Function(
        "compact",
        Schedule("rate(1 minute)"),
        timeout_seconds=60,
        alarms=(Fails(),),
        grants=(
            reads_open_index("Scan"),
            items(ROLLUPS, "DeleteItem", "GetItem", "PutItem", "Query", "UpdateItem"),
        ),
    ),
    Function(
        "audit",
        Schedule("rate(1 minute)"),
        timeout_seconds=60,
        alarms=(Fails(),),
        grants=(
            items(ROLLUPS, "Query", indexes=["open", "receipts"]),
            items(ROLLUPS, "GetItem"),
            items(ROLLUPS, "UpdateItem", keys=["*#ledger"]),
            *reinjects(),
        ),
    ),
    Function(
        "watch",
        Schedule("rate(1 minute)"),
        timeout_seconds=60,
        alarms=(Fails(),),
        grants=(items(CONTROL, "Query", "UpdateItem", keys=["alerts"]), reads_rollups(), *notifies()),
    ),
    Function(
        "erase",
        Schedule("rate(5 minutes)"),
        timeout_seconds=900,
        memory_mb=LARGE_MB,
        layer=True,
        alarms=(Fails(seconds=HOUR_SECONDS),),
        grants=(*follows_erasures(), *erases_everywhere()),
    ),
    Function(
        "start_hourly",
        Schedule("cron(10 * * * ? *)"),
        alarms=(
            Fails(
                "hourly-start-errors", "The hourly workflow is not started", seconds=300, resource="HourlyStartAlarm"
            ),
        ),
        grants=(starts("hourly"),),
    ),
    Function(
        "reconcile",
        Schedule("cron(40 * * * ? *)"),
        timeout_seconds=900,
        memory_mb=LARGE_MB,
        layer=True,
        alarms=(Fails(seconds=HOUR_SECONDS),),
        grants=(*closes(), reads_open_index("Query"), items(CONTROL, "Query", keys=["projects"])),
    ),
    # Tasks, whose failures are the workflow's
    Function(
        "consolidate",
        Task("hourly"),
        timeout_seconds=900,
        memory_mb=LARGE_MB,
        layer=True,
        grants=(reads_open_index("Query"), *consolidates(), *clears_hours()),
    ),
    Function("close", Task("hourly"), timeout_seconds=900, memory_mb=LARGE_MB, layer=True, grants=closes()),
    Function(
        "detect",
        Task("hourly"),
        timeout_seconds=300,
        memory_mb=1024,
        layer=True,
        grants=(
            items(CONTROL, "Query", keys=["projects", "anomalies#*"]),
            control("anomalies", "PutItem"),
            reads_rollups(),
        ),
    ),
    Function(
        "notify",
        Task("hourly"),
        timeout_seconds=300,
        memory_mb=1024,
        layer=True,
        grants=(
            items(CONTROL, "Query", keys=["projects", "anomalies#*", "sockets#*"]),
            control("anomalies", "UpdateItem"),
            ends_connections(),
            pushes("POST"),
            *notifies(),
        ),
    ),
    Function(
        "import_validate",
        Task("import"),
        timeout_seconds=900,
        memory_mb=2048,
        layer=True,
        grants=(
            control("project", "GetItem"),
            control("imports", "PutItem", "UpdateItem"),
            *reads_raw(),
            objects("imports/*", "PutObject"),
        ),
    ),
    Function(
        "import_transform",
        Task("import"),
        timeout_seconds=300,
        memory_mb=2048,
        layer=True,
        grants=(
            control("project", "GetItem"),
            knows_erased_users(),
            notes_progress(),
            *reads_raw(),
            *reads_staged("PutObject"),
            objects("quarantine/project=*", "PutObject"),
        ),
    ),
    Function(
        "import_aggregate",
        Task("import"),
        timeout_seconds=300,
        memory_mb=1024,
        layer=True,
        grants=(notes_progress(), *reads_staged()),
    ),
    Function(
        "import_store",
        Task("import"),
        timeout_seconds=900,
        memory_mb=LARGE_MB,
        layer=True,
        grants=(notes_progress(), *closes(), objects("lake/*", "DeleteObject"), *reads_staged()),
    ),
    Function(
        "import_notify",
        Task("import"),
        timeout_seconds=300,
        memory_mb=1024,
        layer=True,
        grants=(notes_progress(), *reads_staged("DeleteObject"), objects("raw/*", "PutObject"), *notifies()),
    ),
    Function(
        "import_fail",
        Task("import"),
        timeout_seconds=300,
        memory_mb=1024,
        layer=True,
        grants=(
            control("imports", "PutItem", "UpdateItem"),
            *reads_staged(),
            objects("raw/*", "PutObject"),
            *notifies(),
        ),
    ),
)
BY_NAME = {function.name: function for function in FUNCTIONS}
LAYERED = tuple(function.name for function in FUNCTIONS if function.layer)
(BUS_FUNCTION,) = (function.name for function in FUNCTIONS if isinstance(function.trigger, Bus))


def all_alarms() -> list[Alarm]:
    """Return every alarm of a stage: of each function, and of the stage as a whole."""
    return [*(alarm.alarm(each.name) for each in FUNCTIONS for alarm in each.alarms), *STAGE_ALARMS]
