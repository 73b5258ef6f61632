"""Writes .chalice/policy-<function>-<stage>.json: what each function may do, declared once for all stages.

Chalice adds nothing to a policy file: also the permission to read a trigger's source stands here.
`python -m infra.policies` writes the files; they are in the repository because `chalice deploy` reads them.
"""

import json
from typing import Any

from infra.names import buffer_of, dead_letters
from infra.project import CHALICE, STAGES, read_config

Statement = dict[str, Any]

ACCOUNT = "${aws:PrincipalAccount}"  # IAM allows it in the resource part of an ARN only


def statements(stage: str, buffer: str) -> dict[str, list[Statement]]:
    """The statements of every function of a stage, by Chalice's name of the function."""
    app = f"tidemark-{stage}"
    events, rollups, control = (f"arn:aws:dynamodb:*:*:table/{app}-{name}" for name in ("events", "rollups", "control"))
    queue, buffer_stream = f"arn:aws:sqs:*:*:{app}-events", f"arn:aws:kinesis:*:*:stream/{app}-events"
    send = allow("kinesis:PutRecords", buffer_stream) if buffer == "kinesis" else allow("sqs:SendMessage", queue)
    data, results = f"arn:aws:s3:::{app}-data-{ACCOUNT}", f"arn:aws:s3:::{app}-results-{ACCOUNT}"
    sockets = f"arn:aws:execute-api:*:*:*/{stage}"
    database = f"tidemark_{stage}"

    reading_kinesis = [
        "kinesis:DescribeStream",
        "kinesis:DescribeStreamSummary",
        "kinesis:GetRecords",
        "kinesis:GetShardIterator",
        "kinesis:ListShards",
    ]

    def push(*methods: str) -> Statement:
        return allow("execute-api:ManageConnections", *(f"{sockets}/{method}/@connections/*" for method in methods))

    def control_items(actions: str | list[str], *kinds: str) -> Statement:
        """Those whose partition key begins with the kind: no function can make an API key or a project."""
        return with_keys(allow(actions, control), *(f"{kind}#*" for kind in kinds))

    known_erased = control_items("dynamodb:Query", "erased")

    def list_data(prefix: str) -> Statement:
        return {**allow("s3:ListBucket", data), "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*"]}}}

    def stream(table: str) -> list[Statement]:
        reading = ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"]
        return [allow(reading, f"{table}/stream/*"), allow("dynamodb:ListStreams", "*")]

    notify = [
        allow("sns:Publish", f"arn:aws:sns:*:*:{app}-alerts"),
        allow("events:PutEvents", f"arn:aws:events:*:*:event-bus/{app}"),
    ]
    query = [
        allow(
            [
                "athena:GetQueryExecution",
                "athena:GetQueryResults",
                "athena:StartQueryExecution",
                "athena:StopQueryExecution",
            ],
            f"arn:aws:athena:*:*:workgroup/{app}",
        ),
        # What Athena does in the caller's name.
        allow(
            ["glue:GetDatabase", "glue:GetTable"],
            "arn:aws:glue:*:*:catalog",
            "arn:aws:glue:*:*:database/default",  # which it looks up for every query
            f"arn:aws:glue:*:*:database/{database}",
            f"arn:aws:glue:*:*:table/{database}/events",
        ),
        allow("s3:GetObject", f"{data}/lake/*"),
        allow("s3:GetBucketLocation", data, results),
        list_data("lake/"),
        allow("s3:ListBucket", results),  # of any prefix: what Athena lists there is not documented
        allow(
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"],
            f"{results}/athena/*",
        ),
    ]
    collect = [
        known_erased,
        with_keys(allow(["dynamodb:PutItem", "dynamodb:Query"], events), "?ahead#*"),
        with_keys(allow("dynamodb:PutItem", rollups), "*#ledger"),
        send,
        allow("s3:PutObject", f"{data}/quarantine/project=*", f"{data}/spill/*"),
    ]
    reinject = [
        allow(["s3:DeleteObject", "s3:GetObject"], f"{data}/spill/*"),
        list_data("spill/"),  # without it, S3 answers 403 instead of 404 for an object that is gone
        send,
    ]
    consolidate = [  # an hour of the lake
        known_erased,
        with_keys(allow([f"dynamodb:{call}" for call in ("GetItem", "UpdateItem")], rollups), "*#hours"),
        allow(["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], f"{data}/lake/*"),
        allow(["s3:GetObject", "s3:PutObject"], f"{data}/manifests/*", f"{data}/records/*"),
        *map(list_data, ("lake/", "manifests/", "records/")),
    ]
    clean = [  # what an hour that is closed no longer needs
        allow("s3:DeleteObject", *(f"{data}/{prefix}/*" for prefix in ("lake", "manifests", "records", "sessions"))),
        with_keys(allow(["dynamodb:DeleteItem", "dynamodb:Query"], rollups), "*#merged"),
        list_data("sessions/"),
    ]
    close = [  # what an hour comes to; consolidated before, and compared with the hot store where live and lake differ
        *consolidate,
        allow(["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem"], rollups),
        allow("dynamodb:Query", rollups),
        allow("dynamodb:Scan", events),
        allow(["s3:GetObject", "s3:PutObject"], f"{data}/sessions/*"),
        list_data("sessions/"),
    ]
    importing = control_items(["dynamodb:UpdateItem"], "imports")
    staged = [
        allow(["s3:GetObject", "s3:PutObject"], f"{data}/imports/*"),
        list_data("imports/"),
    ]
    return {
        "api_handler": [
            control_items("dynamodb:GetItem", "key", "project", "query"),
            control_items("dynamodb:PutItem", "asked", "query", "ticket"),
            control_items([f"dynamodb:{call}" for call in ("DeleteItem", "GetItem", "PutItem", "Query")], "queries"),
            control_items("dynamodb:UpdateItem", "quota"),
            control_items(["dynamodb:GetItem", "dynamodb:PutItem"], "annotation"),
            control_items("dynamodb:PutItem", "annotations"),
            control_items("dynamodb:Query", "annotations", "anomalies", "imports"),
            with_keys(allow(["dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Query"], control), "alerts"),
            with_keys(allow(["dynamodb:GetItem", "dynamodb:PutItem"], control), "erasures"),
            control_items(["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query"], "erasures"),
            allow(["dynamodb:GetItem", "dynamodb:Query"], events),
            allow("dynamodb:Query", rollups, f"{rollups}/index/open"),
            allow("dynamodb:BatchGetItem", rollups),
            *collect,
            allow(["s3:DeleteObject", "s3:GetObject"], f"{data}/quarantine/project=*"),
            list_data("quarantine/project="),
            *query,
        ],
        "websocket_connect": [
            control_items("dynamodb:DeleteItem", "ticket"),
            control_items("dynamodb:PutItem", "connection", "sockets"),
        ],
        "websocket_message": [
            control_items(["dynamodb:DeleteItem", "dynamodb:GetItem"], "connection", "sockets"),
            control_items("dynamodb:UpdateItem", "sockets"),
            control_items("dynamodb:Query", "late"),
            allow("dynamodb:Query", rollups, f"{rollups}/index/open"),
            allow("dynamodb:BatchGetItem", rollups),
            push("DELETE", "POST"),
        ],
        "websocket_disconnect": [
            control_items("dynamodb:GetItem", "connection"),
            control_items("dynamodb:DeleteItem", "connection", "sockets"),
        ],
        "process": [
            # Both buffers, so that what is left in the one can be read after a change to the other.
            allow(["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"], queue),
            allow(reading_kinesis, buffer_stream),
            allow("kinesis:ListStreams", "*"),
            allow(["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:GetItem", "dynamodb:PutItem"], events),
            known_erased,
            with_keys(allow("dynamodb:PutItem", rollups), "*#ledger"),
            allow("s3:PutObject", f"{data}/quarantine/unreadable/*"),
        ],
        "aggregate": [
            *stream(events),
            allow(["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query"], rollups),
            allow("s3:PutObject", f"{data}/quarantine/unreadable/*"),
        ],
        "archive": [
            *stream(events),
            known_erased,
            allow("s3:PutObject", f"{data}/lake/*"),
            with_keys(allow("dynamodb:UpdateItem", rollups), "*#hours"),
        ],
        "consolidate": [allow("dynamodb:Query", f"{rollups}/index/open"), *consolidate, *clean],
        "close": close,
        "reconcile": [
            *close,
            allow("dynamodb:Query", f"{rollups}/index/open"),
            with_keys(allow("dynamodb:Query", control), "projects"),
        ],
        "erase": [
            with_keys(allow(["dynamodb:DeleteItem", "dynamodb:Query"], control), "erasures"),
            control_items(["dynamodb:GetItem", "dynamodb:UpdateItem"], "erasures"),
            control_items("dynamodb:PutItem", "erased"),
            control_items("dynamodb:GetItem", "project", "query"),
            control_items("dynamodb:Query", "asked", "imports"),
            control_items("dynamodb:DeleteItem", "asked", "query"),
            allow([f"dynamodb:{call}" for call in ("BatchWriteItem", "DeleteItem", "GetItem", "Query")], events),
            *close,
            *clean,
            allow(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], f"{data}/quarantine/*"),
            list_data("quarantine/"),
            *reinject,
            allow(["s3:DeleteObject", "s3:GetObject"], f"{data}/raw/*"),
            list_data("raw/"),
            allow("s3:DeleteObject", f"{data}/imports/*", f"{results}/athena/*"),
            list_data("imports/"),
            {**allow("s3:ListBucket", results), "Condition": {"StringLike": {"s3:prefix": ["athena/*"]}}},
        ],
        "live": [
            *stream(rollups),
            control_items("dynamodb:Query", "sockets"),
            control_items("dynamodb:PutItem", "late"),
            control_items("dynamodb:DeleteItem", "connection", "sockets"),
            push("DELETE", "POST"),
        ],
        "reinject": reinject,
        "take_bus_event": [
            control_items("dynamodb:GetItem", "project"),
            *collect,
            # Lambda does it in the function's name, with an event that failed three times: infra/triggers.py.
            allow("sqs:SendMessage", f"arn:aws:sqs:*:*:{dead_letters(stage)}"),
        ],
        "compact": [
            allow("dynamodb:Scan", f"{rollups}/index/open"),
            allow(
                [f"dynamodb:{call}" for call in ("DeleteItem", "GetItem", "PutItem", "Query", "UpdateItem")], rollups
            ),
        ],
        "watch": [
            with_keys(allow(["dynamodb:Query", "dynamodb:UpdateItem"], control), "alerts"),
            allow("dynamodb:Query", rollups, f"{rollups}/index/open"),
            *notify,
        ],
        "detect": [
            with_keys(allow("dynamodb:Query", control), "projects", "anomalies#*"),
            control_items("dynamodb:PutItem", "anomalies"),
            allow("dynamodb:Query", rollups, f"{rollups}/index/open"),
        ],
        "notify": [
            with_keys(allow("dynamodb:Query", control), "projects", "anomalies#*", "sockets#*"),
            control_items("dynamodb:UpdateItem", "anomalies"),
            control_items("dynamodb:DeleteItem", "connection", "sockets"),
            push("POST"),
            *notify,
        ],
        "start_hourly": [allow("states:StartExecution", f"arn:aws:states:*:*:stateMachine:{app}-hourly")],
        "start_import": [allow("states:StartExecution", f"arn:aws:states:*:*:stateMachine:{app}-import")],
        "import_validate": [
            control_items("dynamodb:GetItem", "project"),
            control_items(["dynamodb:PutItem", "dynamodb:UpdateItem"], "imports"),
            allow("s3:GetObject", f"{data}/raw/*"),
            list_data("raw/"),
            allow("s3:PutObject", f"{data}/imports/*"),
        ],
        "import_transform": [
            control_items("dynamodb:GetItem", "project"),
            known_erased,
            importing,
            allow("s3:GetObject", f"{data}/raw/*"),  # the mapping
            list_data("raw/"),
            *staged,
            allow("s3:PutObject", f"{data}/quarantine/project=*"),
        ],
        "import_aggregate": [importing, allow("s3:GetObject", f"{data}/imports/*"), list_data("imports/")],
        "import_store": [
            importing,
            *close,
            allow("s3:DeleteObject", f"{data}/lake/*"),
            allow("s3:GetObject", f"{data}/imports/*"),
            list_data("imports/"),
        ],
        "import_notify": [
            importing,
            allow(["s3:DeleteObject", "s3:GetObject"], f"{data}/imports/*"),
            list_data("imports/"),
            allow("s3:PutObject", f"{data}/raw/*"),
            *notify,
        ],
        "import_fail": [
            control_items(["dynamodb:PutItem", "dynamodb:UpdateItem"], "imports"),
            allow("s3:GetObject", f"{data}/imports/*"),
            list_data("imports/"),
            allow("s3:PutObject", f"{data}/raw/*"),
            *notify,
        ],
        "audit": [
            allow("dynamodb:Query", rollups, f"{rollups}/index/open", f"{rollups}/index/receipts"),
            allow("dynamodb:GetItem", rollups),
            with_keys(allow("dynamodb:UpdateItem", rollups), "*#ledger"),
            *reinject,
        ],
    }


def allow(actions: str | list[str], *resources: str) -> Statement:
    """One statement; everything not allowed is denied."""
    return {
        "Effect": "Allow",
        "Action": [actions] if isinstance(actions, str) else sorted(actions),
        "Resource": list(resources),
    }


def with_keys(statement: Statement, *patterns: str) -> Statement:
    """The statement for items whose partition keys are like one of the patterns."""
    condition = {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(patterns)},
        "Null": {"dynamodb:LeadingKeys": "false"},  # `ForAllValues` is true of a request without keys
    }
    return {**statement, "Condition": condition}


def documents(stage: str, buffer: str = "") -> dict[str, dict[str, Any]]:
    """The policy document of every function, by file name; each function also writes its own log, and no other.

    Of the stage's buffer in .chalice/config.json, unless another one is asked for.
    """
    made = {}
    for function, own in statements(stage, buffer or buffer_of(read_config(), stage)).items():
        name = f"tidemark-{stage}" if function == "api_handler" else f"tidemark-{stage}-{function}"
        log = allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"arn:aws:logs:*:*:log-group:/aws/lambda/{name}:*")
        made[f"policy-{function}-{stage}.json"] = {"Version": "2012-10-17", "Statement": [*own, log]}
    return made


def render(document: dict[str, Any]) -> str:
    """The text of a policy file."""
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    """Write the files of every stage that is deployed."""
    for stage in STAGES:
        for name, document in documents(stage).items():
            (CHALICE / name).write_text(render(document))
            print(f"wrote .chalice/{name}")


if __name__ == "__main__":
    main()
