import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.base import values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=60,
)
# What takes the most memory for its bytes, or for its values.
SHAPES = {
    "lists": b"[" + b"[]," * 50_000 + b"0]",
    "objects": b"[" + b"{}," * 50_000 + b"0]",
    "objects of one": b"[" + b'{"a":{}},' * 20_000 + b"0]",
    "nested": b"[" + b",".join([b"[" * 900 + b"]" * 900] * 40) + b"]",
    "eight levels": b"[" + (b'{"a":' * 8 + b"0" + b"}" * 8 + b",") * 3_000 + b"0]",
    "texts": ("[" + '"é",' * 50_000 + "0]").encode(),
    "wide texts": ("[" + '"\U0001f4a5",' * 50_000 + "0]").encode(),
    "one wide text": ('["' + "a" * 200_000 + '\U0001f4a5"]').encode(),
    "numbers": b"[" + b"1.5," * 50_000 + b"0]",
    "names": b"{" + b",".join(b'"%d":0' % number for number in range(50_000)) + b"}",
}


def number_of(value: Any) -> int:
    number, left = 0, [value]
    while left:
        one = left.pop()
        number += 1 + (len(one) if isinstance(one, dict) else 0)
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
    return number


@given(JSON, st.booleans())
def test_values_are_counted_as_they_are_and_never_bounded_below(value: Any, indented: bool) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else None)
    number = number_of(value)

    assert values.count(text) == number
    assert values.most_in(text, 0) >= number
    assert values.most_in(text, len(text)) >= number
    assert values.exceed(text, number - 1)
    assert not values.exceed(text, number)


def test_what_stands_in_a_text_is_no_value() -> None:
    assert values.count(orjson.dumps({"a": '[{,: "[,"' * 50})) == 3
    assert not values.exceed(orjson.dumps(['[{,: "[,"' * 50]), 2)


def test_counting_stops_where_the_limit_is() -> None:
    assert values.count(b"[" + b"0," * 1000 + b"0]", 10) == 10


@pytest.mark.parametrize("shape", SHAPES)
def test_python_objects_take_no_more_than_is_said(shape: str) -> None:
    text = SHAPES[shape]
    tracemalloc.start()
    try:
        held = orjson.loads(text)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held_bytes <= values.held_bytes(number_of(held), len(text))
