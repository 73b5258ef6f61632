"""JSON as some clients write it, made valid: one bad value must not cost a whole batch its place.

JavaScript writes half of an emoji as a lone surrogate, Python writes NaN and Infinity, and both may write a number
beyond a double. A body that cannot be read is repaired and read once more; what is valid never comes here.
"""

import math
import re
from typing import Any

import orjson

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
    """The document, repaired where that helps; raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if len(data) > MAX_REPAIRED_BYTES:
            raise
        return orjson.loads(repair(data))


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
