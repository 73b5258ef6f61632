"""The buffer between the edge and the pipeline, when it is SQS."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.events.chunks import Parcel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventQueue:
    """Sends parcels; those that `send` does not give back are durable."""

    by_user: ClassVar[bool] = False  # SQS keeps no order

    client: Any
    url: str

    def send(self, parcels: list[Parcel]) -> list[Parcel]:
        """Returns the parcels that the queue did not take (it may have, when only the answer was lost).

        One call each: a request that takes several is larger than the 1 MiB that SendMessageBatch takes in all. After
        a refusal, for which the SDK has tried three times, the rest is not tried.
        """
        for number, parcel in enumerate(parcels):
            try:
                self.client.send_message(QueueUrl=self.url, MessageBody=parcel.text)
            except (BotoCoreError, ClientError) as error:
                log.warning("the queue took not all", extra={"refused": len(parcels) - number, "reason": str(error)})
                return parcels[number:]
        return []
