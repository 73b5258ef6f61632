"""SQL and reports over HTTP, on events that were sent a moment ago."""

import json
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.end_to_end.client import Answer, Api, eventually
from tests.localcloud.running import Stack


def ask(api: Api, method: str, path: str, key: str = "demo-read", **body: Any) -> Answer:
    """A request with a JSON body, or none, and the answer of a query that takes long."""
    answer = api.call(method, path, key=key, body=json.dumps(body).encode() if body else None)
    return api.finished(answer, key, body.get("limit", 1000))


def test_the_last_hour_is_in_reports_and_queries_and_links_lead_to_their_rows(stack: Stack) -> None:
    api, name = Api(stack.rest_url), uuid.uuid4().hex[:8]
    now = datetime.now(UTC)
    steps = [f"seen_{name}", f"bought_{name}"]
    events = [
        {"event_type": steps[0], "event_id": f"{name}-{n}", "user_id": f"{name}-{n}", "properties": {"plan": "pro"}}
        for n in range(5)
    ]
    api.post([{**event, "timestamp": (now - timedelta(minutes=3)).isoformat()} for event in events])
    api.post([{"event_type": steps[1], "user_id": f"{name}-{n}", "timestamp": now.isoformat()} for n in range(2)])
    days = f"start={now - timedelta(days=1):%Y-%m-%d}&end={now:%Y-%m-%d}"

    def funnel() -> list[int]:
        answer = ask(api, "GET", f"/reports/funnel?steps={','.join(steps)}&group_by=plan&{days}")
        assert answer.status == 200, answer
        return [step["users"] for step in answer.body["steps"]]

    eventually(funnel, [5, 2], seconds=60)
    answers = {
        report: ask(api, "GET", f"/reports/{report}?{days}&{more}").body
        for report, more in {
            "retention": f"event_type={steps[0]}",
            "sessions": "group_by=plan",
            "top": f"of=plan&event_type={steps[0]}",
            "paths": f"first={steps[0]}",
        }.items()
    }
    assert [cohort["users"] for cohort in answers["retention"]["cohorts"]][-1] in (0, 5)  # around midnight
    assert answers["sessions"]["total"]["sessions"] >= 5
    assert answers["top"]["values"] == [{"value": "pro", "number": 5, "share": 1.0}]
    assert {tuple(path["steps"]): path["sessions"] for path in answers["paths"]["paths"]} == {
        (steps[0],): 3,
        (steps[0], steps[1]): 2,
    }

    asked = ask(
        api,
        "POST",
        "/query",
        sql="SELECT event_id FROM events WHERE event_type = :type ORDER BY 1",
        parameters={"type": steps[0]},
        limit=2,
    )
    more = ask(api, "GET", f"/query/{asked.body['id']}?page={asked.body['next']}")
    assert [row[0] for row in asked.body["rows"] + more.body["rows"]] == [f"{name}-{n}" for n in range(5)]
    with urllib.request.urlopen(asked.body["downloads"][0]["url"], timeout=10) as download:
        assert len(download.read().splitlines()) == 6
    again = ask(api, "GET", f"/query/{answers['top']['id']}")
    assert again.body == answers["top"]
    assert ask(api, "DELETE", f"/query/{asked.body['id']}").body == {"id": asked.body["id"], "state": "SUCCEEDED"}
    assert ask(api, "DELETE", f"/query/{asked.body['id']}", "other-read").status == 404


def test_a_saved_query_is_made_by_an_admin_and_asked_by_its_name(stack: Stack) -> None:
    api, name = Api(stack.rest_url), f"q-{uuid.uuid4().hex[:8]}"
    text = "SELECT :n + 1 AS n"

    assert ask(api, "POST", "/queries", name=name, sql=text).status == 403
    saved = ask(api, "POST", "/queries", "demo-admin", name=name, sql=text)
    assert (saved.status, saved.body["parameters"]) == (200, ["n"])
    assert name in {query["name"] for query in ask(api, "GET", "/queries").body["queries"]}
    assert ask(api, "POST", "/query", name=name, parameters={"n": 41}).body["rows"] == [[42]]
    assert ask(api, "POST", "/query", "other-read", name=name, parameters={"n": 41}).status == 404
    assert ask(api, "DELETE", f"/queries/{name}", "demo-admin").body == {"deleted": name}
    assert ask(api, "DELETE", f"/queries/{name}", "demo-admin").status == 404
