"""What the edge received, beside the rollups: `project#ledger#hour` / container, a container's totals of that hour."""

from dataclasses import dataclass
from typing import Any

from chalicelib.domain.ledger import Receipt

INDEX = "receipts"  # sparse: by when they were put
ALL = "all"
KEPT_SECONDS = 8 * 86_400  # long enough to ask what a week was like


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """A put replaces the container's totals of before, so it may be repeated and need not be made each time."""

    client: Any
    name: str  # of the rollups table

    def put(self, project: str, hour: str, receipt: Receipt, now: int) -> None:
        """`now` is epoch seconds."""
        item = {
            "pk": {"S": f"{project}#ledger#{hour}"},
            "sk": {"S": receipt.container},
            "receipt": {"S": str(receipt)},
            "receipts": {"S": ALL},
            "written_at": {"N": str(now)},
            "expires_at": {"N": str(now + KEPT_SECONDS)},
        }
        self.client.put_item(TableName=self.name, Item=item)

    def receipts(self, project: str, hour: str) -> list[Receipt]:
        """The last receipt of each container."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{project}#ledger#{hour}"}},
            ConsistentRead=True,
        )
        return [Receipt.from_text(item["receipt"]["S"]) for page in pages for item in page["Items"]]

    def hours(self, written_since: int) -> list[tuple[str, str, int]]:
        """(project, hour, epoch second of its last receipt) of what was received since, by receipts that were put."""
        pages = self.client.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=INDEX,
            KeyConditionExpression="receipts = :all AND written_at >= :since",
            ExpressionAttributeValues={":all": {"S": ALL}, ":since": {"N": str(written_since)}},
        )
        written: dict[str, int] = {}
        for item in (item for page in pages for item in page["Items"]):
            written[item["pk"]["S"]] = max(written.get(item["pk"]["S"], 0), int(item["written_at"]["N"]))
        parts = {key: key.rsplit("#", 2) for key in written}
        return sorted((project, hour, written[key]) for key, (project, _, hour) in parts.items())
