"""Where the first try put events whose hour another try could change, in the events table beside its chunks.

`project#user` / `~pin#<event and timestamp>`   when it occurred, kept as long as its chunk, or until its user is erased
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.events import MAX_AGE_DAYS, StoredEvent, user_of
from chalicelib.domain.pins import UNSURE, name_of
from chalicelib.domain.records import NO_CHUNK

PIN = f"{NO_CHUNK}pin#"


@dataclass(frozen=True, slots=True)
class PinsTable:
    """Pins events; doing it again, with whatever the client sent as well, changes nothing."""

    client: Any
    name: str

    def pin(self, project: str, events: Iterable[StoredEvent], received_ms: int) -> None:
        """Put each event that is unsure where its first try is, and take out why the edge was unsure."""
        for event in events:
            if event.pop(UNSURE, None):
                event["occurred_at"] = self._pinned_at(project, event, received_ms)

    def _pinned_at(self, project: str, event: StoredEvent, received_ms: int) -> int:
        occurred_ms: int = event["occurred_at"]
        key = _key(project, event)
        try:
            self.client.put_item(
                TableName=self.name,
                Item={
                    **key,
                    "project": {"S": project},
                    "occurred_at": {"N": str(occurred_ms)},
                    "received_at": {"N": str(received_ms)},
                    "expires_at": {"N": str(received_ms // 1000 + MAX_AGE_DAYS * 86_400)},
                },
                ConditionExpression="attribute_not_exists(pk)",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
            return int(item["occurred_at"]["N"]) if item else occurred_ms  # without one, it was erased just now
        return occurred_ms


def _key(project: str, event: StoredEvent) -> dict[str, Any]:
    """Under the user, by whom an erasure finds it; those of nobody are spread as their chunks are."""
    user, name = user_of(event), name_of(event)
    owner = f"{project}#{user}" if user else f"?{name[-2:]}#{project}"
    return {"pk": {"S": owner}, "sk": {"S": f"{PIN}{name}"}}
