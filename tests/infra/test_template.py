"""The two stacks: sound, safe by default, and what the app's code expects."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cfnlint.api import lint_file

from chalicelib.base import metrics, waits
from chalicelib.base.batches import MAX_BATCH_ITEMS
from chalicelib.base.time_windows import DAY_MS
from chalicelib.events.events import MAX_MESSAGES
from chalicelib.lake import lake
from chalicelib.settings import BUFFERS
from chalicelib.wiring import CLIENT_CONFIG
from infra.alarms import Fails, Late
from infra.event_sources import Buffer, TableStream, Task
from infra.functions import BY_NAME, FUNCTIONS
from infra.project import ROOT
from infra.stack import MONITORING, TEMPLATE

Template = dict[str, Any]
ANALYSTS = ROOT / "infra" / "analysts.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
# Functions without an alarm of their own; a task's failure is its workflow's.
NOTICED_BY = {
    "api_handler": "the alarm api-errors",
    "websocket_connect": "its client, whose connection is refused",
    "websocket_disconnect": "nobody: a connection that is gone is also forgotten by the next push",
    "reinject": "the alarm spilled",
}
GLUE_TYPES = {pa.string(): "string", pa.timestamp("us", tz="UTC"): "timestamp"}


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """The resources of a type, by name."""
    return {name: r for name, r in template["Resources"].items() if r["Type"] == kind}


@pytest.mark.parametrize("path", [TEMPLATE, MONITORING, ANALYSTS], ids=lambda path: path.stem)
def test_cfn_lint_finds_nothing(path: Path) -> None:
    assert [str(finding) for finding in lint_file(path)] == []


def test_no_store_goes_with_its_stack(template: Template) -> None:
    kinds = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::Kinesis::Stream")
    stores = [r for kind in kinds for r in of_type(template, kind).values()]

    assert len(stores) == 8
    assert {(r["DeletionPolicy"], r["UpdateReplacePolicy"]) for r in stores} == {("RetainExceptOnCreate", "Retain")}


def test_tables_are_encrypted_restorable_and_protected_in_production(template: Template) -> None:
    for table in of_type(template, "AWS::DynamoDB::Table").values():
        properties = table["Properties"]
        assert properties["SSESpecification"]["SSEEnabled"] is True
        assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
        assert properties["DeletionProtectionEnabled"] == {"Fn::If": ["IsProduction", True, False]}
        assert properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
        assert properties["BillingMode"] == "PAY_PER_REQUEST"


def test_buckets_are_private_encrypted_and_clean_up(template: Template) -> None:
    for bucket in of_type(template, "AWS::S3::Bucket").values():
        properties = bucket["Properties"]
        rules = properties["LifecycleConfiguration"]["Rules"]
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
        assert properties["BucketEncryption"]
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


def test_a_deleted_lake_file_can_be_had_back_and_old_versions_end(template: Template) -> None:
    data = template["Resources"]["DataBucket"]["Properties"]

    assert data["VersioningConfiguration"] == {
        "Fn::If": ["IsLaptop", {"Ref": "AWS::NoValue"}, {"Status": "Enabled"}]  # the emulator ends no version
    }
    assert any(
        rule.get("NoncurrentVersionExpiration") == {"NoncurrentDays": 7}
        for rule in data["LifecycleConfiguration"]["Rules"]
    )


def test_only_what_closing_needs_no_longer_expires(template: Template) -> None:
    rules = template["Resources"]["DataBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    days = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule}

    needed_ms = waits.RETENTION_MS + waits.MARGIN_MS + 2 * DAY_MS  # two days to put things right
    assert days["records/"] * DAY_MS > needed_ms
    assert not {"lake/", "manifests/", "sessions/"} & days.keys()
    assert {rule.get("Prefix", "") for rule in rules if "Transitions" in rule} == {"lake/"}


def test_nothing_is_reached_without_tls(template: Template) -> None:
    policies = {
        **of_type(template, "AWS::S3::BucketPolicy"),
        **of_type(template, "AWS::SQS::QueuePolicy"),
        **of_type(template, "AWS::SNS::TopicPolicy"),
    }
    covered = json.dumps([p["Properties"].get("Bucket") or p["Properties"] for p in policies.values()])

    for policy in policies.values():
        denials = [s for s in policy["Properties"]["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert [s["Condition"] for s in denials] == [{"Bool": {"aws:SecureTransport": "false"}}]
        assert denials[0]["Principal"] == "*"
    for name in ("DataBucket", "ResultsBucket", "EventsQueue", "EventsDeadLetters", "AlertsTopic"):
        assert f'"Ref": "{name}"' in covered


def test_a_message_is_hidden_for_six_times_as_long_as_process_may_take(template: Template) -> None:
    time_out = BY_NAME["process"].timeout_seconds

    hidden = template["Resources"]["EventsQueue"]["Properties"]["VisibilityTimeout"]
    assert hidden == {"Fn::If": ["IsLaptop", time_out, 6 * time_out]}


def test_process_may_wait_for_every_attempt_of_one_call_and_write_what_ten_messages_may_hold() -> None:
    time_out = BY_NAME["process"].timeout_seconds
    retries = CLIENT_CONFIG.retries  # the SDK rewrites it once a client is made of it
    attempts = retries.get("total_max_attempts") or retries["max_attempts"] + 1
    calls = 10 * MAX_MESSAGES / MAX_BATCH_ITEMS  # each event of a message may be another user's

    assert time_out > attempts * (CLIENT_CONFIG.connect_timeout + CLIENT_CONFIG.read_timeout)
    assert time_out >= calls * 0.05  # seconds for each call


def test_a_stream_is_made_only_when_asked_for_encrypted_and_with_a_week_to_put_things_right(template: Template) -> None:
    stream = template["Resources"]["BufferStream"]

    assert stream["Condition"] == template["Outputs"]["BufferStream"]["Condition"] == "UsesKinesis"
    assert template["Parameters"]["Buffer"]["Default"] == "sqs"
    assert template["Parameters"]["Buffer"]["AllowedValues"] == list(BUFFERS)
    assert stream["Properties"]["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert stream["Properties"]["StreamEncryption"]["EncryptionType"] == "KMS"
    assert stream["Properties"]["RetentionPeriodHours"] == 7 * 24


def test_a_dead_letter_is_kept_for_as_long_as_sqs_allows(template: Template) -> None:
    assert template["Resources"]["EventsDeadLetters"]["Properties"]["MessageRetentionPeriod"] == 14 * 86_400


def test_the_lake_table_has_the_columns_of_its_files(template: Template) -> None:
    table = template["Resources"]["LakeTable"]["Properties"]["TableInput"]

    columns = [(column["Name"], column["Type"]) for column in table["StorageDescriptor"]["Columns"]]
    of_files = [field for field in lake.SCHEMA if field.name != lake.SLOT]  # which is for closing only
    assert columns == [(field.name, GLUE_TYPES[field.type]) for field in of_files]
    assert [key["Name"] for key in table["PartitionKeys"]] == ["project", "dt", "hr"]


def test_a_query_without_a_project_fails_instead_of_reading_all(template: Template) -> None:
    parameters = template["Resources"]["LakeTable"]["Properties"]["TableInput"]["Parameters"]

    assert parameters["projection.enabled"] == "true"
    assert parameters["projection.project.type"] == "injected"


def test_analysts_cannot_leave_the_workgroups_limits(template: Template) -> None:
    settings = template["Resources"]["AthenaWorkgroup"]["Properties"]["WorkGroupConfiguration"]

    assert settings["EnforceWorkGroupConfiguration"] is True
    assert settings["BytesScannedCutoffPerQuery"] == {"Ref": "QueryScanLimitBytes"}


def test_every_function_has_a_log_group_that_forgets(monitoring: Template) -> None:
    groups = [r["Properties"] for r in of_type(monitoring, "AWS::Logs::LogGroup").values()]

    names = {group["LogGroupName"]["Fn::Sub"] for group in groups}
    assert names == {f"/aws/lambda/{each.lambda_name('${Stage}')}" for each in FUNCTIONS}
    assert all(group["RetentionInDays"] == 30 for group in groups)


def test_every_alarm_names_a_function_that_there_is_and_tells_somebody(monitoring: Template) -> None:
    for alarm in of_type(monitoring, "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        assert properties["AlarmActions"] == properties["OKActions"] == [{"Ref": "AlertsTopicArn"}]
        for dimension in properties["Dimensions"]:
            if dimension["Name"] == "FunctionName":
                assert dimension["Value"]["Fn::Sub"] in {each.lambda_name("${Stage}") for each in FUNCTIONS}


def test_every_way_to_lose_or_delay_events_has_an_alarm(monitoring: Template) -> None:
    watched = {
        (a["Properties"]["MetricName"], a["Properties"]["AlarmName"]["Fn::Sub"].removeprefix("tidemark-${Stage}-"))
        for a in of_type(monitoring, "AWS::CloudWatch::Alarm").values()
        if a["Properties"]["Namespace"] != "AWS/Lambda"
    }

    assert watched == {
        ("ApproximateNumberOfMessagesVisible", "dead-letters"),
        ("ApproximateAgeOfOldestMessage", "queue-age"),
        ("ExecutionsFailed", "hourly-failed"),
        ("ExecutionsFailed", "import-failed"),
        ("EventsMissing", "events-missing"),
        ("EventsSurplus", "events-surplus"),
        ("EventsDrift", "events-drift"),
        ("EventsRearchived", "events-rearchived"),
        ("HoursNotRearchived", "hours-not-rearchived"),
        ("LakeOldestDirtySeconds", "lake-dirty"),
        ("ErasureOldestSeconds", "erasure-overdue"),
        ("NumbersDrifted", "numbers-drifted"),
        ("DeltasUnreadable", "deltas-unreadable"),
        ("MessagesSpilled", "spilled"),
        ("5XXError", "api-errors"),
    }


def test_every_function_that_nobody_waits_for_has_an_alarm_when_it_fails_and_each_stream_when_it_is_late() -> None:
    for each in FUNCTIONS:
        kinds = [type(alarm) for alarm in each.alarms]
        noticed = isinstance(each.trigger, Task) or each.name in NOTICED_BY
        assert (Fails in kinds) != noticed, each.name
        assert (Late in kinds) == isinstance(each.trigger, Buffer | TableStream), each.name


def test_every_metric_that_stands_for_a_broken_invariant_has_an_alarm_and_no_other_has(monitoring: Template) -> None:
    alarms = [a["Properties"] for a in of_type(monitoring, "AWS::CloudWatch::Alarm").values()]
    ours = {a["MetricName"]: a for a in alarms if a["Namespace"] == metrics.NAMESPACE}

    assert ours.keys() == metrics.INVARIANTS.keys()
    assert not metrics.INVARIANTS.keys() & metrics.QUANTITIES.keys()
    for name, alarm in ours.items():
        assert alarm["Dimensions"] == [{"Name": "stage", "Value": {"Ref": "Stage"}}]
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
        assert alarm["Statistic"] in ("Sum", "Maximum")  # an average would hide one among many
        assert (alarm["Threshold"] == 1) == (metrics.INVARIANTS[name][0] == "Count")


def test_the_handbook_says_what_to_do_for_every_alarm(monitoring: Template) -> None:
    documented = set(re.findall(r"^\| `([a-z_-]+)` \|", OPERATIONS.read_text(), re.MULTILINE))

    names = [a["Properties"]["AlarmName"]["Fn::Sub"] for a in of_type(monitoring, "AWS::CloudWatch::Alarm").values()]
    assert f"{len(names)} alarms $0.10 each, {len(metrics.METRICS)} metrics" in OPERATIONS.read_text()
    assert documented == {name.removeprefix("tidemark-${Stage}-") for name in names}


def test_the_handbook_says_for_how_long_erased_data_is_kept(template: Template) -> None:
    rules = template["Resources"]["DataBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (versions,) = (r["NoncurrentVersionExpiration"] for r in rules if "NoncurrentVersionExpiration" in r)
    recoveries = [
        table["Properties"]["PointInTimeRecoverySpecification"].get("RecoveryPeriodInDays", 35)  # DynamoDB's own
        for table in of_type(template, "AWS::DynamoDB::Table").values()
    ]

    said = re.findall(r"(versions|recovery) keeps? .*?(\d+) days", " ".join(OPERATIONS.read_text().split()))
    assert said == [("versions", str(versions["NoncurrentDays"])), ("recovery", str(max(recoveries)))]


def test_the_templates_name_no_partition_and_the_handbook_says_that_the_policies_do() -> None:
    assert [
        path.name for path in (TEMPLATE, MONITORING, ANALYSTS) if re.search(r"arn:aws[\w-]*:", path.read_text())
    ] == []
    assert re.search(r"`PARTITION` of `infra/grants.py`", OPERATIONS.read_text())


def test_the_handbook_says_that_a_stage_has_one_region(template: Template) -> None:
    names = {bucket["Properties"]["BucketName"]["Fn::Sub"] for bucket in of_type(template, "AWS::S3::Bucket").values()}

    assert not any("${AWS::Region}" in name for name in names)
    assert "A stage lives in one region of an account" in OPERATIONS.read_text()
