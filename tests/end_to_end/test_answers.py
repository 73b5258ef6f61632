"""What a caller is told when something is wrong, over real HTTP."""

import json

import pytest

from tests.end_to_end.client import Api
from tests.localcloud.running import Stack

EVENT = b'{"event_type": "click", "user_id": "u1"}'
RANGE = "start=2026-11-20&end=2026-11-21"


@pytest.fixture
def api(stack: Stack) -> Api:
    return Api(stack.rest_url)


@pytest.mark.parametrize(
    ("method", "path", "key", "body", "status", "code"),
    [
        ("POST", "/events", None, EVENT, 401, "missing_key"),
        ("POST", "/events", "wrong", EVENT, 401, "invalid_key"),
        ("POST", "/events", "demo-read", EVENT, 403, "missing_scope"),
        ("GET", f"/analytics?metric=clicks&{RANGE}", "demo-write", None, 403, "missing_scope"),
        ("POST", "/events", "demo-write", b'{"event_type": ', 400, "malformed_json"),
        ("POST", "/events", "demo-write", b"[7]", 400, "nothing_accepted"),
        ("POST", "/events", "demo-write", b" " * 5_300_000, 413, "payload_too_large"),
        ("GET", f"/analytics?metric=nonsense&{RANGE}", "demo-read", None, 404, "unknown_metric"),
        ("GET", "/analytics?metric=clicks&start=yesterday&end=2026-11-21", "demo-read", None, 400, "invalid_parameter"),
        ("GET", "/analytics?metric=clicks", "demo-read", None, 400, "invalid_parameter"),
        ("POST", "/query", "demo-read", b'{"sql": "DROP TABLE events"}', 400, "invalid_sql"),
        ("POST", "/query", "demo-read", b'{"sql": "SELECT nothing FROM events"}', 400, "query_failed"),
        ("GET", "/query/unknown", "demo-read", None, 404, "not_found"),
        ("POST", "/v1/dance", "demo-write", b"{}", 404, "not_found"),
        ("PUT", "/events", "demo-write", EVENT, 405, "method_not_allowed"),
        ("GET", "/nowhere", None, None, 403, "unknown_route"),  # Chalice's own router, as API Gateway answers
    ],
)
def test_each_refusal_has_its_status_code_and_message(
    api: Api, method: str, path: str, key: str | None, body: bytes | None, status: int, code: str
) -> None:
    answer = api.call(method, path, key=key, body=body)
    if path == "/query" and key:
        answer = api.finished(answer, key)

    assert answer.status == status, answer.body
    if code != "unknown_route":  # answered before the app is asked
        assert answer.body["code"] == code
        assert answer.body["message"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", "text/plain;charset=UTF-8"])
def test_browsers_and_sdks_may_name_the_body_as_they_do(api: Api, content_type: str) -> None:
    answer = api.call("POST", "/events", key="demo-write", body=EVENT, headers={"Content-Type": content_type})

    assert answer.status == 202


def test_another_content_type_is_refused_by_name(api: Api) -> None:
    answer = api.call("POST", "/events", key="demo-write", body=b"<event/>", headers={"Content-Type": "text/xml"})

    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")
    assert "'text/xml'; supported are application/json" in answer.body["message"]


def test_health_tells_the_version(api: Api) -> None:
    answer = api.call("GET", "/health")

    assert answer.status == 200
    assert answer.body["status"] == "ok"
    assert answer.body["version"]


def test_a_gzip_body_is_understood(api: Api) -> None:
    import gzip

    answer = api.call(
        "POST", "/events", key="demo-write", body=gzip.compress(EVENT), headers={"Content-Encoding": "gzip"}
    )

    assert answer.status == 202


def test_the_dashboard_is_a_page_of_its_own(api: Api) -> None:
    answer = api.call("GET", "/dashboard")

    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b"<!doctype html>" in answer.body[:100].lower()


def test_a_query_is_answered_again_by_its_id_and_only_to_its_project(api: Api) -> None:
    asked = api.call("POST", "/query", key="demo-read", body=json.dumps({"sql": "SELECT 1 AS one"}).encode())
    first = api.finished(asked, "demo-read")

    assert first.body["rows"] == [[1]]
    assert api.call("GET", f"/query/{first.body['id']}", key="demo-read").body["rows"] == [[1]]
    assert api.call("GET", f"/query/{first.body['id']}", key="other-read").status == 404
