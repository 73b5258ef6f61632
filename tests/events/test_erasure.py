import pytest

from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user, mentioned_in, mentions, split


def test_a_marker_drops_what_occurred_before_its_time_and_only_that_users() -> None:
    ends = {digest_of_user("demo", "ada"): 100, digest_of_user("demo", "visitor"): FOR_EVER_MS}
    markers = {digest: Marker(digest, 0, until_ms) for digest, until_ms in ends.items()}
    events = [
        {"event_id": "1", "user_id": "ada", "occurred_at": 99},
        {"event_id": "2", "user_id": "ada", "occurred_at": 100},
        {"event_id": "3", "user_id": "bob", "anonymous_id": "visitor", "occurred_at": 0},
        {"event_id": "4", "anonymous_id": "visitor", "occurred_at": 10**14},
        {"event_id": "5", "occurred_at": 0},
    ]

    left, gone = split(events, markers, "demo")

    assert [event["event_id"] for event in left] == ["2", "3", "5"]
    assert [event["event_id"] for event in gone] == ["1", "4"]
    assert split(events, markers, "other") == (events, [])


@pytest.mark.parametrize(
    "value",
    ["ada", {"user_id": "ada"}, {"a": [{"b": ["x", "ada"]}]}, {"userId": 7}, {"anonymous_id": 7, "x": None}],
)
def test_a_mention_is_found_however_deep(value: object) -> None:
    assert mentions(value, ["ada", "7"])


@pytest.mark.parametrize(
    "value", ["adam", {"ada": 1}, {"price": 7}, None, {"user_id": "bob", "size": "7", "of": "ada"}]
)
def test_what_only_looks_like_an_id_is_no_mention(value: object) -> None:
    assert not mentions(value, ["ada", "7"])


def test_in_a_text_a_short_id_counts_in_quotes_only() -> None:
    assert mentioned_in(b'{"userId": "u7", broken', ["u7"])
    assert not mentioned_in(b"row u7 of 9", ["u7"])
    assert mentioned_in(b"from visitor-9 on", ["visitor-9"])
    assert not mentioned_in(b"from visitor-99 on", ["visitor-9"])
