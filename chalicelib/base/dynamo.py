"""DynamoDB as the stores use it: plain values, reads of what is there now, writes that say whether they were made.

An expression names a value as `:name`, and an attribute whose name is one of DynamoDB's reserved words as `#name`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from chalicelib.base.errors import Unavailable
from chalicelib.base.retries import MET_ANOTHER, Retries, code_of

MAX_KEYS = 100  # BatchGetItem limit
NEW, THERE = "attribute_not_exists(pk)", "attribute_exists(pk)"

# Why a write of a transaction was not made. What is in neither set is an error: there is no such transaction.
FAILED = "ConditionalCheckFailed"
TRANSIENT = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

Item = dict[str, Any]  # plain values
Attributes = dict[str, dict[str, Any]]  # as DynamoDB has them, with their types

_SAME = frozenset({"S", "B", "BOOL"})  # kinds of values that are the same in an attribute
_OPERATIONS = {"Put": "put_item", "Update": "update_item", "Delete": "delete_item"}
_SHOWN = {"Put": "NONE", "Update": "ALL_NEW", "Delete": "ALL_OLD"}
_NAME = re.compile(r"#(\w+)")
NOTHING: Mapping[str, Any] = MappingProxyType({})


def typed(item: Mapping[str, Any]) -> Attributes:
    """Return an item's values as DynamoDB takes them; boto3's own serializer takes four times as long for it."""
    attributes: Attributes = {}
    for name, value in item.items():
        kind = type(value)
        if kind is str:
            attributes[name] = {"S": value}
        elif kind is int:
            attributes[name] = {"N": str(value)}
        elif kind is bytes:
            attributes[name] = {"B": value}
        else:
            attributes[name] = _typed(value)
    return attributes


def _typed(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": str(value)}  # of an enumeration's member, its text
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        return {"N": str(value)}
    if isinstance(value, Mapping):
        return {"M": typed(value)}
    if isinstance(value, list | tuple):
        return {"L": [_typed(each) for each in value]}
    if isinstance(value, set | frozenset):
        return {"SS": sorted(value)}
    raise TypeError(f"{type(value).__name__} is not a type that is kept in a table")


def plain(attributes: Mapping[str, Mapping[str, Any]]) -> Item:
    """Return an item's values without their types; numbers are int, and float where they have a fraction."""
    item: Item = {}
    for name, attribute in attributes.items():
        (kind,) = attribute
        item[name] = attribute[kind] if kind in _SAME else _plain(kind, attribute[kind])
    return item


def _plain(kind: str, value: Any) -> Any:
    if kind in _SAME:
        return value
    if kind == "N":
        try:
            return int(value)
        except ValueError:
            return float(value)
    if kind == "M":
        return plain(value)
    if kind == "L":
        return [_plain(*pair) for attribute in value for pair in attribute.items()]
    if kind == "SS":
        return frozenset(value)
    raise TypeError(f"{kind} is not a type that is kept in a table")


def key(pk: str, sk: str) -> Item:
    """Return the key of an item, as every table has it."""
    return {"pk": pk, "sk": sk}


class Action(NamedTuple):
    """A write as DynamoDB takes it: `kind` is Put, Update, Delete or ConditionCheck.

    A tuple, since each chunk that is written makes one: a frozen dataclass takes twice as long.
    """

    kind: str
    request: Mapping[str, Any]  # without its table


def put(item: Mapping[str, Any], condition: str = "", values: Mapping[str, Any] = NOTHING) -> Action:
    """Put an item in place of the one of its key."""
    where = _expressions(values, ConditionExpression=condition) if condition else {}
    return Action("Put", {"Item": typed(item), **where})


def update(at: Mapping[str, Any], change: str, values: Mapping[str, Any] = NOTHING, condition: str = "") -> Action:
    """Change the item of a key, or make it."""
    expressions = _expressions(values, UpdateExpression=change, ConditionExpression=condition)
    return Action("Update", {"Key": typed(at), **expressions})


def delete(at: Mapping[str, Any], condition: str = "", values: Mapping[str, Any] = NOTHING) -> Action:
    """Delete the item of a key; again is no error."""
    return Action("Delete", {"Key": typed(at), **_expressions(values, ConditionExpression=condition)})


def check(at: Mapping[str, Any], condition: str) -> Action:
    """Change nothing, in a transaction that is made where the condition holds only."""
    return Action("ConditionCheck", {"Key": typed(at), "ConditionExpression": condition})


def place_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return an item's key in a form that can be looked up."""
    return item["pk"], item["sk"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, as it is now but where an index is read. What meets another write is tried again."""

    client: Any
    name: str
    retries: Retries = field(default_factory=Retries)

    def get(self, at: Mapping[str, Any]) -> Item | None:
        """Return the item of a key, or None."""
        item = self.client.get_item(TableName=self.name, Key=typed(at), ConsistentRead=True).get("Item")
        return None if item is None else plain(item)

    def get_many(self, keys: Iterable[Mapping[str, Any]], fields: str = "") -> Iterator[Item]:
        """Yield the items there are of any number of keys, in no order; raises Unavailable when some stay unread."""
        left = [typed(at) for at in keys]
        for start in range(0, len(left), MAX_KEYS):
            yield from self._get_some(left[start : start + MAX_KEYS], fields)

    def _get_some(self, keys: list[Attributes], fields: str) -> Iterator[Item]:
        more = {"ProjectionExpression": fields} if fields else {}
        tries = self.retries.tries()
        while keys:
            if next(tries, None) is None:
                raise Unavailable(f"{len(keys)} items were not read in {self.retries.most} tries; retry the request")
            asked = {"Keys": keys, "ConsistentRead": True, **more}
            answer = self.client.batch_get_item(RequestItems={self.name: asked})
            yield from map(plain, answer["Responses"].get(self.name, []))
            left = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if len(left) < len(keys):  # a part is what an answer has room for, and no reason to pause
                tries = self.retries.tries()
            keys = left

    def query(
        self,
        pk: str,
        where: str = "",
        values: Mapping[str, Any] = NOTHING,
        *,
        only: str = "",
        fields: str = "",
        backwards: bool = False,
        page_items: int | None = None,
    ) -> Iterator[Item]:
        """Yield a partition's items by sort key: those `where` is true of `sk`, and `only` of other attributes.

        Pages are read as they are needed, of `page_items` at most.
        """
        condition = f"pk = :pk AND {where}" if where else "pk = :pk"
        request = _expressions(
            {"pk": pk, **values},
            KeyConditionExpression=condition,
            FilterExpression=only,
            ProjectionExpression=fields,
        )
        if backwards:
            request["ScanIndexForward"] = False
        if page_items is not None:
            request["PaginationConfig"] = {"PageSize": page_items}
        for page in self._pages("query", ConsistentRead=True, **request):
            yield from page

    def index_pages(self, index: str, where: str, values: Mapping[str, Any]) -> Iterator[list[Item]]:
        """Yield the pages of an index, by its sort key, as they were some moments ago."""
        return self._pages("query", IndexName=index, **_expressions(values, KeyConditionExpression=where))

    def scan(self, only: str, values: Mapping[str, Any], index: str = "") -> Iterator[Item]:
        """Yield the items of the whole table, or index, that `only` is true of, in no order."""
        where = {"IndexName": index} if index else {"ConsistentRead": True}
        for page in self._pages("scan", **where, **_expressions(values, FilterExpression=only)):
            yield from page

    def _pages(self, operation: str, **request: Any) -> Iterator[list[Item]]:
        for page in self.client.get_paginator(operation).paginate(TableName=self.name, **request):
            yield [plain(item) for item in page["Items"]]

    def write(self, action: Action) -> bool:
        """Make a write; False, and nothing is changed, where its condition does not hold."""
        return self._write(action.kind, action.request)[0]

    def write_showing(self, action: Action) -> tuple[bool, Item]:
        """Make a write as `write` does, and return an item too, empty where there is none.

        It is the item as an update left it, or as it was before it was deleted; or what the condition does not hold of.
        """
        shown = {"ReturnValues": _SHOWN[action.kind], "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        done, item = self._write(action.kind, {**action.request, **shown})
        return done, plain(item)

    def _write(self, kind: str, request: Mapping[str, Any]) -> tuple[bool, Attributes]:
        call: Callable[..., Any] = partial(getattr(self.client, _OPERATIONS[kind]), TableName=self.name, **request)
        try:
            return True, self.retries.call(call, _met_another).get("Attributes", {})
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise
            return False, error.response.get("Item", {})

    def write_together(self, *actions: Action) -> bool:
        """Make all the writes in one transaction; or none, and False, where a condition does not hold.

        Raises ClientError when they could not be tried, met others every time, or are no transaction at all.
        """
        items = [{each.kind: {"TableName": self.name, **each.request}} for each in actions]
        try:
            self.retries.call(partial(self.client.transact_write_items, TransactItems=items), _is_transient)
        except ClientError as error:
            reasons = _reasons_of(error)
            if FAILED in reasons and reasons <= {FAILED, *TRANSIENT}:
                return False
            raise
        return True


def _expressions(values: Mapping[str, Any], **texts: str) -> dict[str, Any]:
    """Return the expressions that there are, with the names and values that stand in them."""
    request: dict[str, Any] = {name: text for name, text in texts.items() if text}
    if names := _NAME.findall(" ".join(request.values())):
        request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
    if values:
        request["ExpressionAttributeValues"] = {f":{name}": value for name, value in typed(values).items()}
    return request


def _met_another(error: ClientError) -> bool:
    return code_of(error) in MET_ANOTHER


def _is_transient(error: ClientError) -> bool:
    reasons = _reasons_of(error)
    return bool(reasons) and reasons <= TRANSIENT


def _reasons_of(error: ClientError) -> set[str]:
    """Return why a transaction's writes were not made; nothing of an error that is no cancellation."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])
    return {reason["Code"] for reason in reasons} - {"None"}
