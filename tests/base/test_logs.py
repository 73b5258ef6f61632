import json
import logging

from chalicelib.base.logs import JsonLines


def test_a_record_is_one_line_of_json_with_its_fields() -> None:
    logger = logging.Logger("chalicelib.ingest.process")
    record = logger.makeRecord(
        "chalicelib.ingest.process", logging.INFO, "f", 1, "processed %d", (3,), None, extra={"chunks": 7}
    )

    line = json.loads(JsonLines().format(record))

    assert (line["message"], line["chunks"], line["level"]) == ("processed 3", 7, "INFO")
    assert set(line) == {"time", "level", "logger", "message", "chunks"}


def test_an_exception_is_told_within_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, error.__traceback__)})

    text = JsonLines().format(record)

    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["exception"]
