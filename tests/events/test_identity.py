from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chalicelib.events.identity import MAX_LINKED_BYTES, MAX_TRAITS, Link, Said, latest

words = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(st.tuples(st.integers(0, 3), st.just(""), st.sampled_from("xyz")), st.just(0)),
    max_size=3,
)


def event(event_type: str, at: int = 0, **more: Any) -> dict[str, Any]:
    return {"event_type": event_type, "event_id": f"e{at}", "occurred_at": at, **more}


@given(words, words, words)
def test_words_in_any_order_and_number_say_the_same(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    assert latest(latest(a, b), c) == latest(c, latest(b, latest(a, b)))


def test_of_each_trait_the_latest_word_counts() -> None:
    said = Said()
    said.hear(event("identify", 2, user_id="u", properties={"plan": "pro", "city": "Kiel"}))
    said.hear(event("identify", 1, user_id="u", properties={"plan": "free", "name": "Ada"}))
    said.hear(event("group", 3, user_id="u", properties={"group_id": "g", "name": "the group's"}))
    said.hear(event("page_view", 9, user_id="u", properties={"plan": "no trait"}))

    assert {name: value for name, (_, value) in said.traits["u"].items()} == {
        "plan": "pro",
        "city": "Kiel",
        "name": "Ada",
        "group_id": "g",
    }


def test_words_of_one_millisecond_stand_in_the_order_of_their_message() -> None:
    said = Said()
    for event_id, plan in (("z", "free"), ("a", "pro"), ("m", "free"), ("b", "max")):
        said.hear({**event("identify", 1, user_id="u", properties={"plan": plan}), "event_id": event_id})
    merged = Said()
    merged.merge(said)
    merged.merge(said)

    assert merged.traits["u"]["plan"][1] == "max"


def test_who_became_whom_is_known_from_identify_and_alias() -> None:
    said = Said()
    said.hear(event("identify", user_id="u", anonymous_id="a"))
    said.hear(event("alias", user_id="u", properties={"previous_id": "old"}))
    said.hear(event("alias", user_id="u", properties={"previous_id": "u"}))
    said.hear(event("alias", user_id="u", properties={"previous_id": 7}))
    said.hear(event("identify", anonymous_id="b", properties={"plan": "free"}))

    assert said.links == {Link("a", "u"), Link("old", "u")}
    assert set(said.traits) == {"b", "u"}


def test_ids_that_no_key_has_room_for_are_not_linked() -> None:
    long = "\U0001f4a5" * (MAX_LINKED_BYTES // 4)
    said = Said()
    said.hear(event("alias", user_id="u", properties={"previous_id": long}))
    said.hear(event("alias", user_id="v", properties={"previous_id": long + "xyzx"}))
    said.hear(event("identify", user_id=long + "xyzx", anonymous_id="a", properties={"plan": "pro"}))

    assert said.links == {Link(long, "u")}
    assert set(said.traits) == {long + "xyzx"}


def test_traits_are_bounded_in_number_and_size() -> None:
    said = Said()
    said.hear(event("identify", 1, user_id="u", properties={f"old{n}": n for n in range(MAX_TRAITS)}))
    said.hear(event("identify", 2, user_id="u", properties={"new": 1, "long": "x" * 5000}))

    assert len(said.traits["u"]) == MAX_TRAITS
    assert "new" in said.traits["u"]
    assert "long" not in said.traits["u"]
