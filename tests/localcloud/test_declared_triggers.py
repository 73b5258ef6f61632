"""What infra/triggers.json may ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
from chalice.app import Chalice

from localcloud.declared_triggers import read_triggers
from localcloud.places import LocalCloudError


def declared(folder: Path, mapping: dict[str, Any]) -> list[dict[str, Any]]:
    """The triggers of an app with one stream handler and this mapping."""
    app = Chalice("test")

    @app.on_dynamodb_record("arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/1", name="worker")
    def worker(_event: object) -> None: ...

    (folder / "triggers.json").write_text(json.dumps({"worker": mapping}))
    return read_triggers(app, folder / "triggers.json")


def test_a_kinesis_stream_has_the_settings_of_its_own(tmp_path: Path) -> None:
    app = Chalice("test")

    @app.on_kinesis_record("events", batch_size=7, starting_position="TRIM_HORIZON", name="worker")
    def worker(_event: object) -> None: ...

    settings = {"worker": {}, "worker@kinesis": {"BisectBatchOnFunctionError": True}}
    (tmp_path / "triggers.json").write_text(json.dumps(settings))

    (trigger,) = read_triggers(app, tmp_path / "triggers.json")

    assert trigger["stream_arn"] == "arn:aws:kinesis:us-east-1:000000000000:stream/events"
    assert (trigger["type"], trigger["batch_size"], trigger["bisect"]) == ("kinesis", 7, True)


def test_a_kinesis_stream_that_would_be_read_from_its_end_is_refused(tmp_path: Path) -> None:
    app = Chalice("test")

    @app.on_kinesis_record("events", name="worker")
    def worker(_event: object) -> None: ...

    with pytest.raises(LocalCloudError, match="worker: the local cloud reads Kinesis from TRIM_HORIZON only"):
        read_triggers(app, tmp_path / "none.json")


def test_a_mapping_is_read(tmp_path: Path) -> None:
    (trigger,) = declared(tmp_path, {"MaximumRetryAttempts": 3, "ParallelizationFactor": 1})

    assert (trigger["type"], trigger["function"], trigger["maximum_retries"]) == ("stream", "worker", 3)


@pytest.mark.parametrize(
    "mapping",
    [
        {"MaximumRecordAgeInSeconds": 3600},
        {"DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:q"}}},
        {"ScalingConfig": {"MaximumConcurrency": 2}},
        {"ParallelizationFactor": 2},
        {"MaximumRetryAttempt": 3},
    ],
)
def test_what_the_local_cloud_would_not_do_is_refused(tmp_path: Path, mapping: dict[str, Any]) -> None:
    with pytest.raises(LocalCloudError, match=f"worker has .*{next(iter(mapping))}"):
        declared(tmp_path, mapping)
