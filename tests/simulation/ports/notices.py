"""SNS and EventBridge in memory: they keep what they were told."""

from dataclasses import dataclass, field
from typing import Any

from tests.simulation.ports.client import Answer, Service
from tests.simulation.ports.quirks import ORDINARY, Quirks


@dataclass
class SNS(Service):
    """Messages that were published."""

    published: list[dict[str, Any]] = field(default_factory=list)
    name: str = "sns"

    def publish(self, **message: Any) -> Answer:
        """Tell the topic's subscribers."""
        self.published.append(message)
        return {"MessageId": f"notice-{len(self.published)}"}


@dataclass
class EventBridge(Service):
    """Events that the bus took; it may refuse some of a call."""

    taken: list[dict[str, Any]] = field(default_factory=list)
    quirks: Quirks = ORDINARY
    name: str = "events"

    def put_events(self, Entries: list[dict[str, Any]]) -> Answer:
        """Put up to ten events on the bus."""
        done = len(Entries) - self.quirks.left_undone(len(Entries))
        self.taken += Entries[:done]
        results = [{"EventId": f"event-{number}"} for number in range(done)]
        results += [{"ErrorCode": "ThrottlingException", "ErrorMessage": "Rate exceeded"}] * (len(Entries) - done)
        return {"FailedEntryCount": len(Entries) - done, "Entries": results}
