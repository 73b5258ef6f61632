"""Stands for SNS and EventBridge: keeps what is published, and fails as it is told to."""

import json
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import EndpointConnectionError

from chalicelib.notices.publisher import Notices


@dataclass
class Told:
    """Both clients in one."""

    mails: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False
    refusing: bool = False  # the bus, which answers so with 200

    @property
    def notices(self) -> Notices:
        return Notices(self, self, "arn:topic", "bus")

    @property
    def details(self) -> list[dict[str, Any]]:
        """What programs are told."""
        return [json.loads(entry["Detail"]) for entry in self.entries]

    def publish(self, **message: Any) -> None:
        if self.down:
            raise EndpointConnectionError(endpoint_url="sns")
        self.mails.append(message)

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        if self.refusing:
            return {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "ThrottlingException"}]}
        self.entries += Entries
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}
