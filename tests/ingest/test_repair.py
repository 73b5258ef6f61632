import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.ingest.repair import repair

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"\ud800"', "\ufffd"),
        (rb'"a\udfffb\ud83d\ude00"', "a\ufffdb\U0001f600"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud800 \"NaN\""', '\\ud800 "NaN"'),
        (b"[NaN, -Infinity, Infinity, 1e999, -1e999, 1e-999, 7]", [None, None, None, None, None, 0.0, 7]),
        (b"[" + b"9" * 400 + b"]", [None]),
        (b'\xef\xbb\xbf{"a": NaN}', {"a": None}),
    ],
)
def test_what_clients_write_beside_the_standard_is_read(written: bytes, read: Any) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(written if b"\\\\ud800" not in written else b"")

    assert orjson.loads(repair(written)) == read


@given(values)
def test_whatever_python_writes_is_read_and_what_is_valid_stays(value: Any) -> None:
    written = json.dumps(value).encode()

    repaired = orjson.loads(repair(written))

    assert same(repaired, json.loads(written))


@pytest.mark.parametrize("written", [b"{", b"[NaNa]", b'"\xff"', b"NaN NaN", b'{"a" 1}', b""])
def test_what_is_no_json_stays_none(written: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(repair(written))


def same(one: Any, other: Any) -> bool:
    """Equal, where null stands for what JSON has no number for, and U+FFFD for half of a pair."""
    if isinstance(other, float) and (math.isnan(other) or math.isinf(other)):
        return one is None
    if isinstance(other, int) and not -(2**63) <= other < 2**64:
        return one is None if len(str(other)) > 300 else bool(one == float(other))
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(other, str):
        return bool(one == other.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return bool(one == other)
