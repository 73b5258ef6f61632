"""Writes to one table that are made together."""

from collections.abc import Mapping
from typing import Any


def written(client: Any, table: str, *writes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Make all the writes, each `{"Put": …}` or the like without its table; or none, and False, where a
    condition does not hold. Raises ClientError when it could not be tried.
    """
    items = [{kind: {"TableName": table, **write} for kind, write in each.items()} for each in writes]
    try:
        client.transact_write_items(TransactItems=items)
    except client.exceptions.TransactionCanceledException as error:
        codes = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
        if codes != {"ConditionalCheckFailed"}:
            raise
        return False
    return True
