"""JSON as some clients write it, made valid: one bad value must not cost a whole batch its place.

JavaScript writes half of an emoji as a lone surrogate, Python writes NaN and Infinity, and both may write a number
beyond a double. A text that cannot be read is repaired and read once more, at whichever door it came in; what is valid
costs nothing.
"""

import json
import math
import re
from typing import Any

import orjson

MAX_DOUBLE_BITS = 1023  # of an integer, so that a double can come near it
MAX_REPAIRED_BYTES = 1024 * 1024  # takes half a second at worst, whatever is in it
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NULL = b"null"
# Each alternative takes what it can and gives nothing back, so the time is linear in the body, whatever is in it.
_TOKENS = re.compile(
    rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+"?)|(?P<word>-?Infinity|NaN)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)',
    re.DOTALL,
)
_ESCAPES = re.compile(
    rb"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


def loads(data: bytes) -> Any:
    """Return the document, repaired where that helps; raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if len(data) > MAX_REPAIRED_BYTES:
            raise
        return orjson.loads(repair(data))


def as_json(document: Any) -> bytes:
    """A document that came as Python objects as JSON that `loads` takes, whatever is in it, and however deep it is.

    Python's own parser lets lone surrogates pass, and integers of any length, which orjson does not write.
    """
    try:
        return orjson.dumps(document)
    except TypeError:  # orjson.JSONEncodeError is one
        pass
    pieces: list[str] = []
    left: list[tuple[bool, Any]] = [(False, document)]  # whether it is text already, and what is to follow, last first
    while left:
        is_text, one = left.pop()
        if is_text:
            pieces.append(one)
        elif isinstance(one, dict):
            left.append((True, "}"))
            for number, (name, value) in reversed(list(enumerate(one.items()))):
                left += [(False, value), (True, f"{',' if number else ''}{json.dumps(str(name))}:")]
            left.append((True, "{"))
        elif isinstance(one, list | tuple):
            left.append((True, "]"))
            for number, value in reversed(list(enumerate(one))):
                left += [(False, value), (True, "," if number else "")]
            left.append((True, "["))
        else:
            pieces.append(_scalar(one))
    return "".join(pieces).encode()


def _scalar(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return repr(float(value)) if value.bit_length() <= MAX_DOUBLE_BITS else "null"
    return json.dumps(value if isinstance(value, str | int | float | None) else str(value))


def repair(data: bytes) -> bytes:
    """Lone surrogates become U+FFFD; NaN, infinities and numbers beyond a double become null."""
    return _TOKENS.sub(_token, data.removeprefix(BYTE_ORDER_MARK))


def _token(match: re.Match[bytes]) -> bytes:
    text = match.group()
    if match["string"]:
        return _ESCAPES.sub(_escape, text) if b"\\u" in text else text
    if match["number"]:
        return NULL if len(text) > 300 or math.isinf(float(text)) else text
    return NULL


def _escape(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match["lone"] else match.group()
