"""Stored events back into the messages that brought them, so that their chunks get the keys they had.

A chunk's key is made of what one user sent in one request, and a request's events share the moment of receipt. None
occurred more than AHEAD_MS after it, so in order of `occurred_at` a message is complete once that moment is passed.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from chalicelib.base.time_windows import AHEAD_MS
from chalicelib.events.chunks import Message
from chalicelib.events.events import StoredEvent

MAX_HELD = 200_000  # events that wait for the rest of their message; imported ones were received long after


def messages_of(project: str, events: Iterable[tuple[int, StoredEvent]]) -> Iterator[Message]:
    """Messages of (received_at in Unix milliseconds, event), which come in order of `occurred_at`.

    Two requests of one millisecond become one message; of more than `MAX_HELD` waiting events, the oldest go first,
    perhaps without others of their message. Either way each event is in one message.
    """
    waiting: dict[int, list[StoredEvent]] = {}
    order: list[int] = []
    held = 0
    for received_ms, event in events:
        while order and (order[0] + AHEAD_MS < event["occurred_at"] or held >= MAX_HELD):
            first = heappop(order)
            message = Message(project, first, waiting.pop(first))
            held -= len(message.events)
            yield message
        if received_ms not in waiting:
            heappush(order, received_ms)
            waiting[received_ms] = []
        waiting[received_ms].append(event)
        held += 1
    for received in sorted(waiting):
        yield Message(project, received, waiting[received])
