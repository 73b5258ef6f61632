"""Files of history and the hour's workflow in a running stack."""

import json
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from tests.end_to_end.client import Api, eventually
from tests.end_to_end.operator import ops
from tests.localcloud.running import Stack

BUCKET = "tidemark-dev-data-000000000000"


def shown(api: Api, name: str) -> list[dict[str, Any]]:
    """The imports of a file, by GET /imports."""
    found = api.call("GET", "/imports", key="demo-read").body["imports"]
    return [one for one in found if one["file"] == name]


def test_a_table_that_an_operator_imports_is_in_every_answer_once(stack: Stack, tmp_path: Path) -> None:
    api = Api(stack.rest_url)
    event_type = f"rental_{uuid.uuid4().hex[:8]}"
    file = tmp_path / f"{event_type}.csv"
    lines = [f"{1 + n % 28:02}.05.2012,{n % 24:02}:30,bike{n % 7},{n}" for n in range(300)]
    file.write_text("\n".join(["day,time,bike,minutes", *lines, "99.99.2012,00:00,x,1"]))
    mapping = tmp_path / "mapping.json"
    times = {"columns": ["day", "time"], "format": "%d.%m.%Y %H:%M"}
    mapping.write_text(json.dumps({"event_type": event_type, "user_id": "bike", "timestamp": times}))

    for new in (300, 0):  # the second time, nothing is
        ops(stack, "import", "--project", "demo", "--mapping", str(mapping), str(file))

        done = shown(api, file.name)[0]
        assert (done["state"], done["rows"], done["rejected"], done["stored"]) == ("done", 301, 1, new)
        assert done["reasons"] == {"invalid_time": 1}
        for agg, expected in (("count", 300), ("users", 7)):
            query = f"metric={event_type}&start=2012-05-01&end=2012-05-31&interval=day&agg={agg}"
            assert api.call("GET", f"/analytics?{query}", key="demo-read").body["total"] == expected
        sql = f"SELECT count(*), count(DISTINCT user_id), min(dt) FROM events WHERE event_type = '{event_type}'"
        assert api.sql(sql) == [[300, 7, "2012-05-01"]]


def test_a_file_that_cannot_be_read_stays_with_a_report_beside_it(stack: Stack) -> None:
    api, s3 = Api(stack.rest_url), stack.client("s3")
    name = f"{uuid.uuid4().hex}.json"
    s3.put_object(Bucket=BUCKET, Key=f"raw/demo/{name}", Body=b"hello")

    eventually(lambda: [one["state"] for one in shown(api, name)], ["failed"], seconds=30)
    outcome_key = f"raw/demo/{name}.report.json"  # which is put once the state says so
    listed = partial(s3.list_objects_v2, Bucket=BUCKET, Prefix=outcome_key)
    eventually(lambda: [one["Key"] for one in listed().get("Contents", [])], [outcome_key], seconds=30)

    report = json.loads(s3.get_object(Bucket=BUCKET, Key=outcome_key)["Body"].read())
    assert "begins with b'hello'" in report["error"]
    assert s3.get_object(Bucket=BUCKET, Key=f"raw/demo/{name}")["Body"].read() == b"hello"


def test_the_hour_is_consolidated_closed_judged_and_told_of(stack: Stack) -> None:
    client = stack.client("stepfunctions")
    arn = "arn:aws:states:us-east-1:000000000000:stateMachine:tidemark-dev-hourly"
    execution = client.start_execution(stateMachineArn=arn, name=uuid.uuid4().hex, input="{}")["executionArn"]

    def passed() -> list[str]:
        events = client.get_execution_history(executionArn=execution, maxResults=1000)["events"]
        return [e["stateExitedEventDetails"]["name"] for e in events if "stateExitedEventDetails" in e]

    expected = ["Compact", "Close", "IsThereMore", "Detect", "Notify", "HasSomethingFailed"]
    eventually(lambda: list(dict.fromkeys(passed())), expected, seconds=60)
    client.stop_execution(executionArn=execution)
