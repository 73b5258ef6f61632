import json

import pytest

from chalicelib.settings import InvalidSetting, MissingSetting, Settings, Sources


def test_every_chalice_command_can_import_the_app_without_any_setting() -> None:
    sources = Sources.from_environment({})

    assert sources.events_queue == "tidemark-dev-events"
    assert sources.events_stream_arn.endswith("/stream/unrecorded")


def test_the_buffer_is_sqs_unless_kinesis_is_asked_for() -> None:
    assert Sources.from_environment({}).buffer == "sqs"
    assert Sources.from_environment({"BUFFER": "kinesis", "STAGE": "prod"}).buffer_stream == "tidemark-prod-events"
    with pytest.raises(InvalidSetting, match="BUFFER is 'kafka'; it must be one of sqs, kinesis"):
        Sources.from_environment({"BUFFER": "kafka"})


def test_nothing_of_others_is_taken_from_the_bus_unless_it_is_asked_for() -> None:
    asked = {"source": ["aws.s3"]}

    assert Sources.from_environment({}).bus_pattern == {"source": [{"prefix": "tidemark."}]}
    assert Sources.from_environment({"BUS_PATTERN": json.dumps(asked)}).bus_pattern == asked


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"aws.s3"'])
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="BUS_PATTERN is"):
        Sources.from_environment({"BUS_PATTERN": text})


def test_a_missing_setting_is_named_with_the_command_that_records_it() -> None:
    with pytest.raises(MissingSetting, match=r"EVENTS_TABLE is not set.*make outputs STAGE=prod"):
        Settings.from_environment({"STAGE": "prod"})
