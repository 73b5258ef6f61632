"""Events of the account's bus: counted in the stage's project, once, however often they are delivered."""

import json
import uuid
from datetime import UTC, datetime

from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack


def test_an_event_of_the_bus_is_counted(stack: Stack) -> None:
    api, marker = Api(stack.rest_url), uuid.uuid4().hex[:12]
    entries = [
        {"Source": source, "DetailType": f"Parcel {marker}", "Detail": json.dumps({"weight": 2})}
        for source in ("tidemark.shop", "somebody.else")
    ]

    assert stack.client("events").put_events(Entries=entries)["FailedEntryCount"] == 0

    eventually(lambda: api.total(f"parcel_{marker}"), 1, seconds=20)
    assert api.total(f"parcel_{marker}", key="other-read") == 0
    columns = "json_extract_scalar(context, '$.source'), json_extract_scalar(properties, '$.weight')"
    query = f"SELECT {columns} FROM events WHERE event_type = 'parcel_{marker}'"
    eventually(lambda: api.sql(query), [["tidemark.shop", "2"]], seconds=30)


def test_an_event_that_is_delivered_twice_is_counted_once(stack: Stack) -> None:
    api, marker = Api(stack.rest_url), uuid.uuid4().hex[:12]
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": f"Parcel {marker}",
        "source": "tidemark.shop",
        "account": "000000000000",
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "region": "us-east-1",
        "resources": [],
        "detail": {},
    }
    sqs = stack.client("sqs")
    rule = sqs.get_queue_url(QueueName="localcloud-take_bus_event-notifications")["QueueUrl"]
    before = sum(hour["duplicate"] for hour in api.ledger())

    for _ in range(2):
        sqs.send_message(QueueUrl=rule, MessageBody=json.dumps(event))

    eventually(lambda: sum(hour["duplicate"] for hour in api.ledger()) - before, 1, seconds=20)
    assert api.total(f"parcel_{marker}") == 1
