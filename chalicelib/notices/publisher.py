"""Who is told: the alerts topic (people, by mail) and the stage's own event bus (programs).

Told at least once: the one may have taken a notice when the other fails, and then both get it again, with the same id.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from chalicelib.notices.notices import SOURCES, Notice

SUBJECT_CHARACTERS = 100  # SNS's limit, of ASCII


class NotPublished(Exception):
    """The bus did not take a notice; it is to be published again."""


@dataclass(frozen=True, slots=True)
class Notices:
    """Publishes; `project` and `kind` are attributes of each message, for subscriptions that want some of them."""

    sns: Any
    events: Any
    topic_arn: str
    bus: str

    def publish(self, notice: Notice) -> None:
        """Tell everybody; raises NotPublished, ClientError or BotoCoreError when not everybody was told."""
        text = orjson.dumps(notice.document).decode()
        attributes = {"project": notice.document["project"], "kind": notice.kind}
        self.sns.publish(
            TopicArn=self.topic_arn,
            Subject=_subject(notice.title),
            Message=f"{notice.title}\n\n{text}",
            MessageAttributes={n: {"DataType": "String", "StringValue": value} for n, value in attributes.items()},
        )
        entry = {"EventBusName": self.bus, "Source": SOURCES[notice.kind], "DetailType": notice.kind, "Detail": text}
        answer = self.events.put_events(Entries=[entry])
        if answer["FailedEntryCount"]:
            raise NotPublished(f"the bus did not take {notice.document['id']}: {answer['Entries'][0]}")


def _subject(title: str) -> str:
    text = title.encode("ascii", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)[:SUBJECT_CHARACTERS]
