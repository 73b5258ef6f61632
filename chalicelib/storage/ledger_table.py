"""What the edge received, beside the rollups: `project#ledger` / hour#container, a container's totals of that hour."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from botocore.exceptions import ClientError

from chalicelib.domain.ledger import Receipt

INDEX = "receipts"  # sparse: of the hours that do not balance yet, by when they were put
PARTITIONS = [f"open{n}" for n in range(16)]  # of the index: DynamoDB takes 1,000 writes a second of each
ALL = "all"  # the one partition that older versions put theirs in
KEPT_SECONDS = 15 * 86_400  # longer than an event can lie in the queue, and then among the dead letters


@dataclass(frozen=True, slots=True)
class OpenHour:
    """An hour of receipt in the index: when the last of its receipts was put, in Unix seconds, and whose."""

    project: str
    hour: str
    received: int
    containers: frozenset[str]


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """A put replaces the container's totals of before, so it may be repeated and need not be made each time.

    One that comes late, because the SDK had given it up, changes nothing.
    """

    client: Any
    name: str  # of the rollups table

    def put(self, project: str, hour: str, receipt: Receipt, now: int, name: str = "") -> None:
        """`now` is Unix seconds, `name` what the receipt is put under where its container's own stays as it is."""
        item = {
            "pk": {"S": f"{project}#ledger"},
            "sk": {"S": f"{hour}#{name or receipt.container}"},
            "receipt": {"S": str(receipt)},
            "counted": {"N": str(receipt.counted())},
            **({} if name else {"receipts": {"S": _partition(project, hour, receipt.container)}}),
            "written_at": {"N": str(now)},
            "expires_at": {"N": str(now + KEPT_SECONDS)},
        }
        try:
            self.client.put_item(
                TableName=self.name,
                Item=item,
                ConditionExpression="attribute_not_exists(counted) OR counted <= :counted",
                ExpressionAttributeValues={":counted": item["counted"]},
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise

    def receipts(self, project: str, first: str, last: str) -> dict[str, list[Receipt]]:
        """The last receipt of each container, by the hours from `first` to `last`, both included."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": {"S": f"{project}#ledger"},
                ":first": {"S": first},
                ":last": {"S": f"{last}#~"},
            },
            ConsistentRead=True,
        )
        found: dict[str, list[Receipt]] = {}
        for item in (item for page in pages for item in page["Items"]):
            hour = item["sk"]["S"].partition("#")[0]
            found.setdefault(hour, []).append(Receipt.from_text(item["receipt"]["S"]))
        return found

    def open_hours(self, since: int) -> list[OpenHour]:
        """Return the hours in the index, however old; of what older versions put, those put since."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        for item in self._open(since):
            hour, _, container = item["sk"]["S"].partition("#")
            written = found.setdefault((item["pk"]["S"].removesuffix("#ledger"), hour), {})
            written[container] = int(item["written_at"]["N"])
        return [OpenHour(*key, max(written.values()), frozenset(written)) for key, written in sorted(found.items())]

    def take_out(self, hour: OpenHour, receipts: Iterable[Receipt]) -> None:
        """Take the receipts out of the index, unless they have become more since they were read."""
        for receipt in receipts:
            try:
                self.client.update_item(
                    TableName=self.name,
                    Key={"pk": {"S": f"{hour.project}#ledger"}, "sk": {"S": f"{hour.hour}#{receipt.container}"}},
                    UpdateExpression="REMOVE receipts",
                    ConditionExpression="receipt = :read",
                    ExpressionAttributeValues={":read": {"S": str(receipt)}},
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise

    def _open(self, since: int) -> Iterator[dict[str, Any]]:
        for partition in (*PARTITIONS, ALL):
            pages = self.client.get_paginator("query").paginate(
                TableName=self.name,
                IndexName=INDEX,
                KeyConditionExpression="receipts = :partition AND written_at >= :since",
                ExpressionAttributeValues={
                    ":partition": {"S": partition},
                    ":since": {"N": str(since if partition == ALL else 0)},
                },
            )
            for page in pages:
                yield from page["Items"]


def _partition(project: str, hour: str, container: str) -> str:
    """The same for all totals that stand in one item."""
    return PARTITIONS[crc32(f"{project}#{hour}#{container}".encode()) % len(PARTITIONS)]
