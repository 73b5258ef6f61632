from chalicelib.domain.bus import is_notice, read_bus_event
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.events import Admitter, Mode
from chalicelib.domain.time_windows import parse_ms

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
