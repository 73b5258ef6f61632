"""What sessions rely on of the bucket, on the second emulator: a listing tells of every write and in which order."""

import uuid

from chalicelib.base.data_bucket import DataBucket
from chalicelib.hours.session_files import SessionFiles
from chalicelib.hours.session_parts import SessionPart
from tests.localcloud.services import Services

HOUR = "2026-11-21T09"


def test_parts_that_were_written_again_or_of_another_version_are_listed_otherwise(services: Services) -> None:
    s3, name = services.client("s3"), f"data-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    files = SessionFiles(DataBucket(s3, name))
    part = SessionPart(1, own=False, user="u", first_ms=0, last_ms=0, events=1)

    files.write("demo", HOUR, "1-b", [[part]])
    first = files.listed("demo", HOUR, HOUR)
    part.add({"event_type": "click", "occurred_at": 5, "user_id": "u"})
    files.write("demo", HOUR, "1-b", [[part]])
    again = files.listed("demo", HOUR, HOUR)
    part.add({"event_type": "click", "occurred_at": 6, "user_id": "u"})
    files.write("demo", HOUR, "2-a", [[part]])
    after = files.listed("demo", HOUR, HOUR)
    files.write("demo", HOUR, "1-b", [[]])
    [columns] = files.read("demo", files.listed("demo", HOUR, HOUR))

    assert first.keys() == again.keys() == after.keys() == {HOUR}
    assert first != again != after
    assert columns.events.tolist() == [3]
