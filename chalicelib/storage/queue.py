"""The buffer between the edge and the pipeline: SQS."""

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.errors import Unavailable


@dataclass(frozen=True, slots=True)
class EventQueue:
    """Sends message bodies; once `send` returns, the message is durable."""

    client: Any
    url: str

    def send(self, text: str) -> None:
        """Raises Unavailable when the queue did not take it (it may have, when only the answer was lost)."""
        try:
            self.client.send_message(QueueUrl=self.url, MessageBody=text)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"the queue did not take the message: {error}") from error
