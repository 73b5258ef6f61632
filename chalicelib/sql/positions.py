"""Brings the engine's `line 1:8` from the query that was sent back to the text that the analyst wrote."""

import re
from difflib import SequenceMatcher

import sqlglot
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token

MAX_WORDS = 5000  # of both texts together; more is not compared, and the position left out

_POSITION = re.compile(r"line (\d+):(\d+)")


def as_written(message: str, *, sent: str, written: str) -> str:
    """Return the message with the position of the same word in `written`; without one where no word is the same."""
    if (found := _POSITION.search(message)) is None:
        return message
    line, column = int(found[1]), int(found[2])
    try:
        theirs, ours = (sqlglot.tokenize(text, read="athena") for text in (written, sent))
    except SqlglotError:
        theirs, ours = [], []
    place = _place(theirs, ours, line, column) if len(theirs) + len(ours) <= MAX_WORDS else None
    if place is None:
        return re.sub(r"line \d+:\d+:? ?", "", message, count=1)
    return message[: found.start()] + f"line {place[0]}:{place[1]}" + message[found.end() :]


def _place(theirs: list[Token], ours: list[Token], line: int, column: int) -> tuple[int, int] | None:
    sent, written = ([token.text.lower() for token in tokens] for tokens in (ours, theirs))
    for here, there, size in SequenceMatcher(None, sent, written, autojunk=False).get_matching_blocks():
        for token, other in zip(ours[here : here + size], theirs[there : there + size], strict=True):
            if _start(token) == (line, column):
                return _start(other)
    return None


def _start(token: Token) -> tuple[int, int]:
    """Line and column, from 1, of a token's first character; sqlglot keeps the column of its last one."""
    return token.line, token.col - (token.end - token.start)
