"""Writes to one table that are made together."""

from collections.abc import Mapping
from typing import Any

# Another transaction was at one of the items: like a condition that fails, what was read is no longer so.
LOST_RACES = {"ConditionalCheckFailed", "TransactionConflict"}


def written(client: Any, table: str, *writes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Make all the writes, each `{"Put": …}` or the like without its table; or none, and False, where somebody else
    was there first. Raises ClientError when it could not be tried, or is no transaction at all.
    """
    items = [{kind: {"TableName": table, **write} for kind, write in each.items()} for each in writes]
    try:
        client.transact_write_items(TransactItems=items)
    except client.exceptions.TransactionCanceledException as error:
        codes = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
        if not codes or not codes <= LOST_RACES:
            raise
        return False
    return True
