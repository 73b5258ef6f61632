"""What is told of numbers, on the running stack: an alert that fires, and who hears of it; what dashboards can list."""

import json
import uuid
from typing import Any

import pytest

from tests.end_to_end.client import Api, eventually
from tests.localcloud.running import Stack

ACCOUNT = "000000000000"


def listen(stack: Stack) -> str:
    """A queue that gets what people and what programs are told; its URL."""
    name = f"told-{uuid.uuid4().hex[:8]}"
    url: str = stack.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    arn, events = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}", stack.client("events")
    topic = f"arn:aws:sns:us-east-1:{ACCOUNT}:tidemark-dev-alerts"
    stack.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    pattern = json.dumps({"source": ["tidemark.alerts"]})
    events.put_rule(Name=name, EventBusName="tidemark-dev", EventPattern=pattern)
    events.put_targets(Rule=name, EventBusName="tidemark-dev", Targets=[{"Id": "queue", "Arn": arn}])
    return url


def received(stack: Stack, url: str) -> list[dict[str, Any]]:
    answer = stack.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


@pytest.mark.timeout(240)  # the schedule's minute, and the one that has to be over
def test_an_alert_fires_within_two_minutes_and_both_people_and_programs_hear_of_it(stack: Stack) -> None:
    api, marker = Api(stack.rest_url), f"parcel_{uuid.uuid4().hex[:8]}"
    url = listen(stack)
    words = {"name": "parcels", "metric": marker, "comparison": "above", "threshold": 2}
    made = api.call("POST", "/alerts", key="demo-admin", body=json.dumps(words).encode())
    assert made.status == 201, made
    api.post([{"event_type": marker, "event_id": f"{marker}-{n}"} for n in range(3)])
    heard: list[dict[str, Any]] = []

    def ways() -> list[str]:
        heard.extend(message for message in received(stack, url) if marker in json.dumps(message))
        return sorted("mail" if "TopicArn" in message else message["detail"]["state"] for message in heard)

    eventually(ways, ["firing", "mail"], seconds=150)
    (event,) = (message["detail"] for message in heard if "detail" in message)
    assert (event["value"], event["alert"]["id"], event["project"]) == (3, made.body["id"], "demo")
    shown = {alert["id"]: alert["state"] for alert in api.call("GET", "/alerts", key="demo-read").body["alerts"]}
    assert shown[made.body["id"]] == "firing"
    assert api.call("DELETE", f"/alerts/{made.body['id']}", key="demo-admin").status == 200
    assert api.call("DELETE", f"/alerts/{made.body['id']}", key="demo-admin").status == 404


def test_annotations_and_anomalies_are_each_projects_own(stack: Stack) -> None:
    api, name = Api(stack.rest_url), uuid.uuid4().hex
    words = json.dumps({"id": name, "title": "Version 7", "kind": "deploy"}).encode()

    statuses = [api.call("POST", "/annotations", key=key, body=words).status for key in ("demo-admin", "demo-write")]

    assert statuses == [201, 403]
    listed = [api.call("GET", "/annotations", key=key).body["annotations"] for key in ("demo-read", "other-read")]
    assert [name in [annotation["id"] for annotation in found] for found in listed] == [True, False]
    assert api.call("GET", "/anomalies?kind=drift", key="demo-read").body == {"anomalies": [], "next": None}
    refused = api.call("GET", "/anomalies?kind=party", key="demo-read")
    assert (refused.status, refused.body["code"]) == (400, "invalid_parameter")
