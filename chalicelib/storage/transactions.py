"""Writes to one table that are made together."""

import random
import time
from collections.abc import Mapping
from typing import Any

FAILED = "ConditionalCheckFailed"
CONFLICT = "TransactionConflict"  # another write was at one of the items just then, which says nothing of a condition
MAX_TRIES = 6  # at items that others are about to change; the SDK does not try again by itself


def written(client: Any, table: str, *writes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Make all the writes, each `{"Put": …}` or the like without its table; or none, and False, where a condition
    does not hold. Raises ClientError when it could not be tried, met others every time, or is no transaction at all.
    """
    items = [{kind: {"TableName": table, **write} for kind, write in each.items()} for each in writes]
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            client.transact_write_items(TransactItems=items)
            return True
        except client.exceptions.TransactionCanceledException as error:
            codes = {reason["Code"] for reason in error.response.get("CancellationReasons", [])} - {"None"}
            if codes and codes <= {FAILED, CONFLICT} and FAILED in codes:
                return False
            if codes != {CONFLICT} or not tries_left:
                raise
            time.sleep(random.uniform(0.01, 0.05))
    raise AssertionError("unreachable: the last try returns or raises")
