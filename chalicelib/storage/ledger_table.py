"""What the edge received, beside the rollups: `project#ledger` / hour#container, a container's totals of that hour."""

from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.domain.ledger import Receipt

INDEX = "receipts"  # sparse: by when they were put
ALL = "all"
KEPT_SECONDS = 8 * 86_400  # long enough to ask what a week was like


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """A put replaces the container's totals of before, so it may be repeated and need not be made each time.

    One that comes late, because the SDK had given it up, changes nothing.
    """

    client: Any
    name: str  # of the rollups table

    def put(self, project: str, hour: str, receipt: Receipt, now: int, name: str = "") -> None:
        """`now` is epoch seconds, `name` what the receipt is put under where its container's own stays as it is."""
        item = {
            "pk": {"S": f"{project}#ledger"},
            "sk": {"S": f"{hour}#{name or receipt.container}"},
            "receipt": {"S": str(receipt)},
            "counted": {"N": str(receipt.counted())},
            "receipts": {"S": ALL},
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

    def hours(self, written_since: int) -> list[tuple[str, str, int]]:
        """(project, hour, epoch second of its last receipt) of what was received since, by receipts that were put."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=INDEX,
            KeyConditionExpression="receipts = :all AND written_at >= :since",
            ExpressionAttributeValues={":all": {"S": ALL}, ":since": {"N": str(written_since)}},
        )
        written: dict[tuple[str, str], int] = {}
        for item in (item for page in pages for item in page["Items"]):
            project, hour = item["pk"]["S"].removesuffix("#ledger"), item["sk"]["S"].partition("#")[0]
            written[project, hour] = max(written.get((project, hour), 0), int(item["written_at"]["N"]))
        return sorted((project, hour, at) for (project, hour), at in written.items())
