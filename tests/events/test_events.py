from pathlib import Path
from typing import Any

import pytest

from chalicelib.base.time_windows import parse_ms
from chalicelib.events.contracts import NO_ROLLUP, Contract, Contracts
from chalicelib.events.events import MAX_EVENT_BYTES, MAX_EVENT_VALUES, Admission, Admitter, Mode

RECEIVED = parse_ms("2026-11-21T10:05:00Z")


@pytest.fixture
def admitter(tmp_path: Path) -> Admitter:
    folder = tmp_path / "api_request"
    folder.mkdir()
    for version, limit in (("1-9-0", 5), ("1-10-0", 10_000)):
        (folder / f"{version}.json").write_text(
            '{"x-metric": "api_requests", "x-rollup": {"measures": ["latency_ms"]}, "required": ["latency_ms"],'
            f'"properties": {{"latency_ms": {{"type": "number", "maximum": {limit}}}}}}}'
        )
    return Admitter(Contracts.load(tmp_path), new_id=lambda ms: f"made-{ms}")


def admit(admitter: Admitter, *events: Any, mode: Mode = Mode.INFER, **more: Any) -> Admission:
    return admitter.admit(events, mode=mode, received_ms=RECEIVED, **more)


def test_one_bad_event_costs_no_good_one_its_place(admitter: Admitter) -> None:
    admission = admit(
        admitter,
        {"event_type": "api_request", "event_id": "a", "properties": {"latency_ms": 7}},
        {"event_type": "api_request", "event_id": "b", "properties": {"latency_ms": "slow"}},
        {"event_type": "click", "event_id": "c"},
    )

    assert admission.event_ids == ["a", "c"]
    assert [(r.index, r.event_id, r.code, r.path) for r in admission.rejections] == [
        (1, "b", "contract_violation", "/properties/latency_ms")
    ]
    assert '"slow" is not of type "number"' in admission.rejections[0].message


def test_the_newest_version_of_a_contract_counts(admitter: Admitter) -> None:
    admission = admit(admitter, {"event_type": "api_request", "properties": {"latency_ms": 9_999}})

    assert admission.rejections == []
    assert admitter.contracts.by_type["api_request"].version == "1-10-0"


def test_an_event_is_taken_under_the_version_it_names_else_under_the_newest_it_keeps() -> None:
    admitter = Admitter(
        Contracts.of(
            Contract("t", version, "ts", NO_ROLLUP, {"properties": {"n": {"type": kind}}, "required": ["n"]})
            for version, kind in (("1-0-0", "string"), ("1-1-0", "integer"), ("2-0-0", "boolean"))
        ),
        new_id=str,
    )

    def outcome(value: object, named: str | None = None) -> str:
        admission = admit(admitter, {"event_type": "t", "properties": {"n": value}, "schema_version": named})
        return str(admission.events[0]["schema_version"] if admission.events else admission.rejections[0].code)

    assert [outcome(value) for value in (True, 7, "x", None)] == ["2-0-0", "1-1-0", "1-0-0", "contract_violation"]
    assert [outcome("x", "1-0-0"), outcome("x", "2-0-0")] == ["1-0-0", "contract_violation"]
    assert outcome("x", "1-0-7") == "unknown_schema_version"


def test_a_rejection_names_the_version_that_was_broken(admitter: Admitter) -> None:
    named = {"event_type": "api_request", "properties": {"latency_ms": 9}, "schema_version": "1-9-0"}
    unnamed = {"event_type": "api_request", "properties": {"latency_ms": 99_999}}

    admission = admit(admitter, named, unnamed, {**unnamed, "schema_version": "one"})

    assert [(r.code, r.schema_version) for r in admission.rejections] == [
        ("contract_violation", "1-9-0"),
        ("contract_violation", "1-10-0"),
        ("unknown_schema_version", None),
    ]
    assert admission.rejections[2].message == "api_request has no version 'one'; it has 1-10-0, 1-9-0"


def test_properties_that_a_contract_does_not_list_are_taken_by_the_projects_mode(admitter: Admitter) -> None:
    event = {"event_type": "api_request", "properties": {"latency_ms": 7, "a/b": 1, "zone": 2}}

    taken = {mode: admit(admitter, event, mode=mode) for mode in Mode}

    assert (taken[Mode.INFER].warnings, len(taken[Mode.INFER].events)) == ([], 1)
    assert [(w["code"], w["path"]) for w in taken[Mode.WARN].warnings] == [("unknown_property", "/properties/a~1b")]
    assert "'a/b', 'zone'" in taken[Mode.WARN].warnings[0]["message"]
    assert [(r.code, r.path, r.schema_version) for r in taken[Mode.ENFORCE].rejections] == [
        ("unknown_property", "/properties/a~1b", "1-10-0")
    ]


@pytest.mark.parametrize(
    ("event", "code", "path"),
    [
        ("text", "not_an_object", ""),
        (None, "not_an_object", ""),
        ({}, "contract_violation", ""),
        ({"event_type": ""}, "contract_violation", "/event_type"),
        ({"event_type": "a#b"}, "contract_violation", "/event_type"),
        ({"event_type": 7}, "contract_violation", "/event_type"),
        ({"event_type": "click", "user_id": 7}, "contract_violation", "/user_id"),
        ({"event_type": "click", "event_id": "x" * 257}, "contract_violation", "/event_id"),
        ({"event_type": "click", "properties": []}, "contract_violation", "/properties"),
        ({"event_type": "click", "properties": "x"}, "contract_violation", "/properties"),
        ({"event_type": "click", "timestamp": "soon"}, "invalid_time", "/timestamp"),
        ({"event_type": "click", "sent_at": "soon"}, "invalid_time", "/sent_at"),
        ({"event_type": "click", "timestamp": "2026-10-01T00:00:00Z"}, "too_old", "/timestamp"),
        ({"event_type": "api_request"}, "contract_violation", "/properties"),
        ({"event_type": "api_requests"}, "reserved_event_type", "/event_type"),
        ({"event_type": "users"}, "reserved_event_type", "/event_type"),
        ({"event_type": "sessions"}, "reserved_event_type", "/event_type"),
        ({"event_type": "(sessions)"}, "reserved_event_type", "/event_type"),
        ({"event_type": "(all)"}, "reserved_event_type", "/event_type"),
        ({"event_type": "(ledger)"}, "reserved_event_type", "/event_type"),
        ({"event_type": "click", "timestamp": "0001-01-01", "sent_at": "9999-12-31"}, "too_old", "/timestamp"),
        ({"event_type": "click", "timestamp": 0, "sent_at": 253402300799999}, "too_old", "/timestamp"),
        ({"event_type": "click", "properties": {"x": "y" * MAX_EVENT_BYTES}}, "event_too_large", ""),
        ({"event_type": "click", "properties": {"x": [[]] * MAX_EVENT_VALUES}}, "too_many_values", ""),
        ({"event_type": "click", "properties": {"x": [{"": 0}] * (MAX_EVENT_VALUES // 3)}}, "too_many_values", ""),
        ({"event_type": "click", "context": {str(n): 0 for n in range(MAX_EVENT_VALUES // 2)}}, "too_many_values", ""),
    ],
)
def test_each_refusal_names_its_code_and_place(admitter: Admitter, event: Any, code: str, path: str) -> None:
    admission = admit(admitter, event)

    assert [(r.code, r.path) for r in admission.rejections] == [(code, path)]
    assert admission.rejections[0].message
    assert admission.event_ids == []


@pytest.mark.parametrize("event_type", ["identify", "group", "alias"])
@pytest.mark.parametrize("mode", Mode)
def test_what_is_said_of_users_is_taken_in_each_mode(admitter: Admitter, mode: Mode, event_type: str) -> None:
    event = {"event_type": event_type, "user_id": "u", "properties": {"plan": "pro"}}

    admission = admitter.admit([event], mode=mode, received_ms=RECEIVED)

    assert (len(admission.event_ids), admission.warnings) == (1, [])


@pytest.mark.parametrize(("mode", "taken", "warned"), [("infer", 1, 0), ("warn", 1, 1), ("enforce", 0, 0)])
def test_an_unknown_type_is_taken_warned_about_or_refused(
    admitter: Admitter, mode: str, taken: int, warned: int
) -> None:
    admission = admit(admitter, {"event_type": "wave"}, mode=Mode(mode))

    assert (len(admission.event_ids), len(admission.warnings)) == (taken, warned)


def test_what_is_stored_holds_what_was_sent_and_when_it_occurred(admitter: Admitter) -> None:
    sent: dict[str, Any] = {
        "event_type": "click",
        "event_id": "e1",
        "user_id": "u1",
        "timestamp": "2026-11-21T10:00:00Z",
        "properties": {"x": 1},
        "context": {"ip": "x"},
    }

    [event] = admit(admitter, {**sent, "anonymous_id": None, "surplus": True}).events

    assert event == {**sent, "occurred_at": parse_ms("2026-11-21T10:00:00Z")}


def test_an_event_without_an_id_gets_one(admitter: Admitter) -> None:
    assert admit(admitter, {"event_type": "click"}).event_ids == [f"made-{RECEIVED}"]


def test_an_id_sent_twice_in_one_request_is_stored_once(admitter: Admitter) -> None:
    admission = admit(admitter, {"event_type": "click", "event_id": "e"}, {"event_type": "click", "event_id": "e"})

    assert len(admission.events) == 1
    assert admission.event_ids == ["e", "e"]


def test_the_skew_of_a_batch_corrects_its_events(admitter: Admitter) -> None:
    [event] = admit(
        admitter, {"event_type": "click", "timestamp": "2026-11-21T08:04:00Z"}, sent_at="2026-11-21T08:05:00Z"
    ).events

    assert event["occurred_at"] == parse_ms("2026-11-21T10:04:00Z")
    assert event["timestamp"] == "2026-11-21T08:04:00Z"


def test_a_file_that_is_no_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "1-0-0.json").write_text('{"type": "object"}')

    with pytest.raises(ValueError, match=r"click/1-0-0\.json is not a contract"):
        Contracts.load(tmp_path)


def test_an_event_may_have_as_many_values_as_the_limit_says_and_texts_of_any_look(admitter: Admitter) -> None:
    empty = {"event_id": "e", "event_type": "click", "properties": {"x": []}}  # nine values
    most = {**empty, "properties": {"x": [[]] * (MAX_EVENT_VALUES - 9)}}
    one_more = {**empty, "properties": {"x": [[]] * (MAX_EVENT_VALUES - 8)}}

    admission = admit(admitter, most, one_more, {**empty, "event_id": "f", "properties": {"x": '[{":,' * 20_000}})

    assert admission.event_ids == ["e", "f"]
    assert admission.rejections[0].message == "the event has 20001 JSON values; the limit is 20000"
