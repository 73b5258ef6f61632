import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.base.time_windows import parse_ms
from chalicelib.events.contracts import Contracts
from chalicelib.events.enrichment import NOBODY
from chalicelib.events.events import Admitter, Mode
from chalicelib.ingest.bus import is_notice, read_bus_event
from chalicelib.quarantine.files import QuarantineFile, Record

EVENT = {
    "version": "0",
    "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "account": "111122223333",
    "time": "2026-11-21T02:05:00Z",
    "region": "us-west-1",
    "resources": ["arn:aws:ec2:us-west-1:111122223333:instance/i-1234567890abcdef0"],
    "detail": {"instance-id": "i-1234567890abcdef0", "state": "terminated"},
}
RECEIVED = parse_ms("2026-11-21T02:05:09Z")


def test_an_event_of_the_bus_is_admitted_in_our_form() -> None:
    request = read_bus_event(EVENT)

    admission = Admitter(Contracts({}), str).admit(request.events, mode=Mode.INFER, received_ms=RECEIVED)

    assert admission.rejections == []
    assert admission.events == [
        {
            "event_id": EVENT["id"],
            "event_type": "ec2_instance_state_change_notification",
            "occurred_at": parse_ms(EVENT["time"]),
            "timestamp": EVENT["time"],
            "properties": EVENT["detail"],
            "context": {name: EVENT[name] for name in ("source", "account", "region", "resources")},
        }
    ]


def test_an_event_of_the_bus_that_is_not_taken_can_be_kept_whole() -> None:
    request = read_bus_event({**EVENT, "detail-type": ""})

    admission = Admitter(Contracts({}), str).admit(request.events, mode=Mode.INFER, received_ms=RECEIVED)

    assert [rejection.code for rejection in admission.rejections] == ["contract_violation"]
    assert b"6a7e8feb-b491-4cf7-a9f1-bf3703467718" in request.body


def test_what_we_told_others_ourselves_is_no_event() -> None:
    assert is_notice({**EVENT, "source": "tidemark.anomalies"})
    assert is_notice({**EVENT, "source": "tidemark.alerts"})
    assert not is_notice({**EVENT, "source": "tidemark.shop"})
    assert not is_notice(EVENT)


def test_the_address_that_a_service_names_is_cut_before_anything_is_kept() -> None:
    detail = {"source-ip-address": "203.0.113.77", "userIdentity": {"sourceIPAddress": "203.0.113.77"}}

    request = read_bus_event({**EVENT, "detail": detail})

    assert b"203.0.113.77" not in request.body
    assert request.events[0]["properties"] == {
        "source-ip-address": "203.0.113.0",
        "userIdentity": {"sourceIPAddress": "203.0.113.0"},
    }


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


STRANGE: dict[str, tuple[Any, Any]] = {  # what the detail has, and what is stored; REJECTED: kept in quarantine
    "half of a surrogate pair": ("a\ud83d", "a\ufffd"),
    "an integer beyond 64 bits": (2**64, float(2**64)),
    "a negative one": (-(2**70), float(-(2**70))),
    "an integer beyond a double": (10**400, None),
    "one that Python does not even print": (10**5000, None),
    "no number": (float("nan"), None),
    "infinity": (-float("inf"), None),
    "a pair": ("\U0001f600", "\U0001f600"),
    "a name with half of a pair": ({"\udc00": 1}, {"\ufffd": 1}),
    "escapes": ('"\\\n\ud800\\ud800', '"\\\n\ufffd\\ud800'),
}
DEEP = {"deep": 300, "too deep for orjson": 1100, "too deep for recursion": 20_000}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_event_that_json_hardly_holds_is_stored(kind: str) -> None:
    sent, kept = STRANGE[kind]

    request = read_bus_event({**EVENT, "detail": {"x": [sent], "y": 1}})

    admission = Admitter(Contracts({}), str).admit(request.events, mode=Mode.INFER, received_ms=RECEIVED)
    assert admission.event_ids == [EVENT["id"]]
    assert admission.events[0]["properties"] == {"x": [kept], "y": 1}
    assert orjson.dumps(admission.events)


@pytest.mark.parametrize("kind", DEEP)
def test_an_event_that_cannot_be_stored_is_kept_with_its_text(kind: str) -> None:
    request = read_bus_event({**EVENT, "detail": {"x": deep(DEEP[kind]), "y": "\ud83d"}})

    admission = Admitter(Contracts({}), str).admit(request.events, mode=Mode.INFER, received_ms=RECEIVED)
    [rejection] = admission.rejections
    file = QuarantineFile("demo", RECEIVED, None, NOBODY, [Record.of(rejection, request.events[0])], request.body)
    kept = QuarantineFile.decode(file.encode())
    assert rejection.code in ("too_deep", "malformed_json")
    text = kept.records[0].event or kept.body.decode()
    assert text.count("[") == text.count("]") > DEEP[kind]
    assert str(EVENT["id"]) in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(JSON)
def test_whatever_comes_is_one_event_taken_or_rejected(detail: Any) -> None:
    request = read_bus_event({**EVENT, "detail": detail})

    admission = Admitter(Contracts({}), str).admit(request.events, mode=Mode.INFER, received_ms=RECEIVED)

    assert len(admission.event_ids) + len(admission.rejections) == 1
    assert json.loads(request.body)["id"] == EVENT["id"]
