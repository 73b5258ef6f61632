import pytest

from chalicelib.settings import MissingSetting, Settings, Sources


def test_every_chalice_command_can_import_the_app_without_any_setting() -> None:
    sources = Sources.from_environment({})

    assert sources.events_queue == "tidemark-dev-events"
    assert sources.events_stream_arn.endswith("/stream/unrecorded")


def test_a_missing_setting_is_named_with_the_command_that_records_it() -> None:
    with pytest.raises(MissingSetting, match=r"EVENTS_TABLE is not set.*make outputs STAGE=prod"):
        Settings.from_environment({"STAGE": "prod"})
