"""How many JSON values a text has: each list, each object, each name of a member and each text, number or word.

As Python objects JSON takes memory by its values, not by its bytes: `[],` has three bytes and takes 64 of them, so a
limit of bytes alone lets 5 MiB become 120 MB. Hence texts are counted before they are parsed. With the bytes of the
text, which hold what the texts in it take (a character of four bytes at most), the values bound what it comes to:
"""

import re
from itertools import islice

BYTES_PER_VALUE = 100  # measured, at most: an object of one member takes 184 in a list, and counts as three values
BYTES_PER_BYTE = 4  # of a text with one character beyond the basic plane, each character takes four
# A value needs a byte, and but for the last one another that parts it from the next or closes it.
LEAST_BYTES = 2
_STRUCTURE = b"[{,:"
_VALUES = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[^\s\[\]{},:"]++', re.DOTALL)


def most_in(text: bytes, free_bytes: int) -> int:
    """A number that the text's values do not exceed: in up to `free_bytes` by its length alone, which costs nothing.

    In a longer one by the characters that begin or part values, those within texts included.
    """
    if len(text) <= free_bytes:
        return len(text) // LEAST_BYTES + 1
    return 1 + len(text) - len(text.translate(None, _STRUCTURE))


def count(text: bytes, up_to: int | None = None) -> int:
    """Return how many values there are, or `up_to` where there are as many or more; takes some 150 ns for each."""
    return sum(1 for _ in islice(_VALUES.finditer(text), up_to))


def exceed(text: bytes, limit: int) -> bool:
    """Whether there are more values than the limit; of a text of twice as many bytes or fewer, that needs no look."""
    return most_in(text, LEAST_BYTES * limit - 1) > limit and count(text, limit + 1) > limit


def held_bytes(values: int, text_bytes: int) -> int:
    """Return what a text of so many values and bytes takes as Python objects, at most."""
    return values * BYTES_PER_VALUE + text_bytes * BYTES_PER_BYTE
