"""Queries of what may be in the answer only, and conditions that are read once.

MiniStack sorts a query's whole partition, and reads the expression anew for each item of it. A year of closed rollups
is a partition of some ten thousand items: there a query took seconds, and takes some milliseconds so. The condition of
each item of a transaction is read once as well. What is not of the forms below goes MiniStack's own way.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Item = dict[str, Any]
Condition = Callable[[Item, Item], bool]

_WHOLE = re.compile(r"(\w+) = (:\w+)")
_RANGE = re.compile(r"(\w+) = (:\w+) AND (\w+) BETWEEN (:\w+) AND (:\w+)")
_PREFIX = re.compile(r"(\w+) = (:\w+) AND begins_with\((\w+), (:\w+)\)")
NEW = "attribute_not_exists(pk)"
KEY, WRITE = "KeyConditionExpression", "ConditionExpression"


def install(dynamodb: Any) -> None:
    """Have MiniStack's DynamoDB module use this where it can."""
    if dynamodb._query.__module__ == __name__:
        return  # installed twice, a query would wait for its own lock
    original = dynamodb._evaluate_condition

    def evaluate(expression: str, item: Item, values: Item, names: Item, slot: str = WRITE) -> Any:
        condition = _condition(expression, slot) if expression and not names else None
        if condition is not None:
            try:
                return condition(item, values)
            except KeyError:  # a key that is no text: the other way knows what to make of it
                pass
        return original(expression, item, values, names, slot)

    dynamodb._evaluate_condition = evaluate
    query = dynamodb._query

    def query_few(data: Item) -> Any:
        # Requests are answered one after another, so for the time of one the table may be a smaller one; the thread
        # that removes expired items, which takes this lock, would remove them from that.
        tables, name, within = dynamodb._tables, data.get("TableName"), _within(data)
        with dynamodb._lock:
            table = tables.get(name)
            if not table or within is None:
                return query(data)
            pk, is_wanted = within
            few = {sk: item for sk, item in table["items"].get(pk, {}).items() if is_wanted(sk)}
            tables[name] = {**table, "items": {pk: few}}
            try:
                return query(data)
            finally:
                tables[name] = table

    dynamodb._query = query_few


@lru_cache(maxsize=256)
def _condition(expression: str, slot: str) -> Condition | None:
    """Return what the expression asks of an item, where it has one of the forms; keys that are texts, else KeyError.

    Texts are compared by code points, which is the order of their UTF-8.
    """
    if slot != KEY:
        return (lambda item, _: "pk" not in item) if slot == WRITE and expression == NEW else None
    if match := _WHOLE.fullmatch(expression):
        pk, is_pk = match.groups()
        return lambda item, values: bool(item[pk]["S"] == values[is_pk]["S"])
    if match := _RANGE.fullmatch(expression):
        pk, is_pk, sk, first, last = match.groups()
        return lambda item, values: bool(
            item[pk]["S"] == values[is_pk]["S"] and values[first]["S"] <= item[sk]["S"] <= values[last]["S"]
        )
    if match := _PREFIX.fullmatch(expression):
        pk, is_pk, sk, prefix = match.groups()
        return lambda item, values: bool(
            item[pk]["S"] == values[is_pk]["S"] and item[sk]["S"].startswith(values[prefix]["S"])
        )
    return None


def _within(data: Item) -> tuple[str, Callable[[str], bool]] | None:
    """Return the partition, and which of its sort keys a query is about; None where it asks in another form."""
    expression, values = data.get(KEY), data.get("ExpressionAttributeValues")
    if not expression or not values or data.get("IndexName"):
        return None
    try:
        if match := _RANGE.fullmatch(expression):
            pk, first, last = (values[name]["S"] for name in match.group(2, 4, 5))
            return pk, lambda sk: first <= sk <= last
        if match := _PREFIX.fullmatch(expression):
            pk, prefix = (values[name]["S"] for name in match.group(2, 4))
            return pk, lambda sk: sk.startswith(prefix)
    except KeyError:  # as above
        pass
    return None
