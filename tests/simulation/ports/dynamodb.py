"""DynamoDB in memory: single items, batches, transactions, queries and scans, with AWS's limits and refusals."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.ports.client import Answer, Service, refusal
from tests.simulation.ports.expressions import KeyCondition, read_all
from tests.simulation.ports.items import Item, Value, comparable, invalid, item_size, measured, stored
from tests.simulation.ports.quirks import ORDINARY, Quirks
from tests.simulation.ports.tables import Index, Key, Table, check_indexed, check_size, key_of, place_of, slice_of
from tests.simulation.ports.updates import projected, touched, updated

MAX_BATCH_WRITES = 25
MAX_BATCH_KEYS = 100
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_TRANSACTION_ITEMS = 100
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
PAGE_BYTES = 1024 * 1024
TOKEN_SECONDS = 600  # a ClientRequestToken is remembered for so long
CONDITION_FAILED = "The conditional request failed"


@dataclass
class DynamoDB(Service):
    """Each call takes effect as a whole at the moment it is made."""

    clock: Callable[[], float]
    tables: dict[str, Table] = field(default_factory=dict)
    quirks: Quirks = ORDINARY
    tokens: dict[str, tuple[float, Any]] = field(default_factory=dict)
    name: str = "dynamodb"

    def describe_table(self, TableName: str) -> Answer:
        """That the table is there."""
        return {"Table": {"TableName": self._table(TableName).name, "TableStatus": "ACTIVE"}}

    # Single items

    def get_item(self, TableName: str, Key: Item, ConsistentRead: bool = False, **request: Any) -> Answer:
        """One item, or an answer without `Item`."""
        trees = read_all(request)
        item = self._table(TableName).get(key_of(Key, alone=True))
        self._asks_for_now(ConsistentRead)
        if item is None:
            return {}
        return {"Item": projected(item, trees["ProjectionExpression"]) if trees else dict(item)}

    def put_item(self, TableName: str, Item: Item, **request: Any) -> Answer:
        """Put an item in place of what is there."""
        change = _Change(self._table(TableName), key_of(Item), request, put=_stored(self._table(TableName), Item))
        return self._change(change)

    def update_item(self, TableName: str, Key: Item, **request: Any) -> Answer:
        """Change an item, or make it."""
        return self._change(_Change(self._table(TableName), key_of(Key, alone=True), request))

    def delete_item(self, TableName: str, Key: Item, **request: Any) -> Answer:
        """Delete an item; again is no error."""
        return self._change(_Change(self._table(TableName), key_of(Key, alone=True), request, delete=True))

    def _change(self, change: "_Change") -> Answer:
        if not change.holds():
            more: Answer = {"Item": dict(change.before)} if change.shows_refused() and change.before else {}
            raise refusal("ConditionalCheckFailedException", CONDITION_FAILED, **more)
        after = change.after()
        change.table.write(change.key, after, self.clock())
        return change.answer(after)

    # Batches

    def batch_write_item(self, RequestItems: Mapping[str, list[dict[str, Any]]]) -> Answer:
        """Put and delete up to 25 items, one by one; some may be left undone."""
        requests = [(name, *request.popitem()) for name, each in RequestItems.items() for request in map(dict, each)]
        if not 0 < len(requests) <= MAX_BATCH_WRITES:
            raise invalid(
                f"1 validation error detected: Member must have length less than or equal to 25: {len(requests)}"
            )
        changes: dict[tuple[str, Key], tuple[Table, Item | None, Any]] = {}
        total = 0
        for name, kind, request in requests:
            table, item = self._table(name), None
            if kind == "PutRequest":
                item = _stored(table, request["Item"])
                total += item_size(item)
            key = key_of(request["Item"]) if item else key_of(request["Key"], alone=True)
            if (name, key) in changes:
                raise invalid("Provided list of item keys contains duplicates")
            changes[name, key] = table, item, {kind: request}
        if total > MAX_BATCH_BYTES:
            raise invalid("Too many bytes in one BatchWriteItem request; the limit is 16 MB")
        done = len(changes) - self.quirks.left_undone(len(changes))
        undone: dict[str, list[Any]] = {}
        for number, ((name, key), (table, item, request)) in enumerate(changes.items()):
            if number < done:
                table.write(key, item, self.clock())
            else:
                undone.setdefault(name, []).append(request)
        return {"UnprocessedItems": undone}

    def batch_get_item(self, RequestItems: Mapping[str, Mapping[str, Any]]) -> Answer:
        """Up to 100 items, in no order; some may be left out."""
        wanted = [(name, key_of(key, alone=True)) for name, asked in RequestItems.items() for key in asked["Keys"]]
        if not 0 < len(wanted) <= MAX_BATCH_KEYS:
            raise invalid(f"Too many items requested for the BatchGetItem call: {len(wanted)}")
        if len({*wanted}) < len(wanted):
            raise invalid("Provided list of item keys contains duplicates")
        done = len(wanted) - self.quirks.left_undone(len(wanted))
        found: dict[str, list[Item]] = {name: [] for name in RequestItems}
        size = 0
        for number, (name, key) in enumerate(wanted):
            if number >= done or size > MAX_BATCH_BYTES:
                done = number
                break
            self._asks_for_now(RequestItems[name].get("ConsistentRead"))
            if item := self._table(name).get(key):
                size += item_size(item)
                found[name].append(dict(item))
        undone: dict[str, Any] = {}
        for name, key in wanted[done:]:
            rest = {option: value for option, value in RequestItems[name].items() if option != "Keys"}
            undone.setdefault(name, {"Keys": [], **rest})["Keys"].append({"pk": {"S": key[0]}, "sk": {"S": key[1]}})
        return {"Responses": {name: items[::-1] for name, items in found.items()}, "UnprocessedKeys": undone}

    # Transactions

    def transact_write_items(self, TransactItems: Sequence[Mapping[str, Any]], ClientRequestToken: str = "") -> Answer:
        """Make all the writes, or none and say why of each; with the token of a transaction that was made, nothing."""
        if not 0 < len(TransactItems) <= MAX_TRANSACTION_ITEMS:
            raise invalid(f"Member must have length less than or equal to 100; it has {len(TransactItems)}")
        if ClientRequestToken and self._was_made(ClientRequestToken, TransactItems):
            return {}
        changes = [self._action(*action) for each in TransactItems for action in each.items()]
        if len({(change.table.name, change.key) for change in changes}) < len(changes):
            raise invalid("Transaction request cannot include multiple operations on one item")
        if sum(change.size() for change in changes) > MAX_TRANSACTION_BYTES:
            raise invalid("Transaction request exceeds the 4 MB transaction size limit")
        reasons, afters = zip(*map(_tried, changes), strict=True)
        if any(reason["Code"] != "None" for reason in reasons):
            codes = ", ".join(reason["Code"] for reason in reasons)
            message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
            raise refusal("TransactionCanceledException", message, CancellationReasons=list(reasons))
        for change, after in zip(changes, afters, strict=True):
            if not change.checks_only:
                change.table.write(change.key, after, self.clock())
        if ClientRequestToken:
            self.tokens[ClientRequestToken] = self.clock() + TOKEN_SECONDS, TransactItems
        return {}

    def _was_made(self, token: str, items: Any) -> bool:
        until, made = self.tokens.get(token, (0.0, None))
        if until <= self.clock():
            return False
        if made != items:
            raise refusal("IdempotentParameterMismatchException", "the token was used for another transaction")
        return True

    def _action(self, kind: str, request: Mapping[str, Any]) -> "_Change":
        rest = {name: value for name, value in request.items() if name not in ("TableName", "Key", "Item")}
        table = self._table(request["TableName"])
        if kind == "Put":
            return _Change(table, key_of(request["Item"]), rest, put=_normal(request["Item"]))
        key = key_of(request["Key"], alone=True)
        return _Change(table, key, rest, delete=kind == "Delete", checks_only=kind == "ConditionCheck")

    # Queries

    def query(self, TableName: str, IndexName: str = "", **request: Any) -> Answer:
        """A page of the items of a hash key, in order of the range key."""
        table, trees, values = self._table(TableName), read_all(request), request.get("ExpressionAttributeValues") or {}
        index = self._index(table, IndexName, request) if IndexName else None
        names = (index.hash_name, index.range_name) if index else ("pk", "sk")
        hash_value, operator, bounds = _within(trees["KeyConditionExpression"], values, names)
        if index:
            order = index.order.get(hash_value, [])
            keep = slice_of([at for at, _ in order], operator, bounds)
            start = [at for at, _ in order].index(keep[0]) if keep else 0
            found = [index.entries[key][2] for _, key in order[start : start + len(keep)]]
        else:
            keys = table.keys_of(hash_value, operator, bounds)
            items = table.partitions[hash_value].items if keys else {}
            found = [items[sk] for sk in keys]
            self._asks_for_now(request.get("ConsistentRead"))
        if not request.get("ScanIndexForward", True):
            found.reverse()
        return self._page(found, trees, values, request, index)

    def scan(self, TableName: str, IndexName: str = "", **request: Any) -> Answer:
        """A page of all items of a table or an index."""
        table, trees, values = self._table(TableName), read_all(request), request.get("ExpressionAttributeValues") or {}
        index = self._index(table, IndexName, request) if IndexName else None
        if index:
            found = [index.entries[key][2] for where in sorted(index.order) for _, key in index.order[where]]
        else:
            self._asks_for_now(request.get("ConsistentRead"))
            found = [item for _, item in table.every()]
        return self._page(found, trees, values, request, index)

    def _page(
        self,
        found: list[Item],
        trees: Mapping[str, Any],
        values: Mapping[str, Value],
        request: Mapping[str, Any],
        index: Index | None,
    ) -> Answer:
        if after := request.get("ExclusiveStartKey"):
            found = _rest(found, index, after, request)
        most = self.quirks.page(min(request.get("Limit") or len(found), len(found))) if found else 0
        size = count = 0
        for item in found[:most]:
            size += item_size(item)
            if size > PAGE_BYTES and count:
                break
            count += 1
        page, matches = found[:count], trees.get("FilterExpression")
        items = [item for item in page if matches is None or matches(item, values)]
        paths = trees.get("ProjectionExpression")
        answer: Answer = {"Count": len(items), "ScannedCount": count}
        if request.get("Select") != "COUNT":
            answer["Items"] = [projected(item, paths) if paths else dict(item) for item in items]
        if count < len(found) or (count and count == request.get("Limit")):
            names = ["pk", "sk", *([index.hash_name, index.range_name] if index else [])]
            answer["LastEvaluatedKey"] = {name: page[-1][name] for name in names}
        return answer

    def _asks_for_now(self, consistent: Any) -> None:
        if not consistent:
            self.quirks.late_read()

    def _index(self, table: Table, name: str, request: Mapping[str, Any]) -> Index:
        if name not in table.indexes:
            raise invalid(f"The table does not have the specified index: {name}")
        if request.get("ConsistentRead"):
            raise invalid("Consistent reads are not supported on global secondary indexes")
        index = table.indexes[name]
        index.catch_up(self.clock())
        return index

    def _table(self, name: str) -> Table:
        if name not in self.tables:
            raise refusal("ResourceNotFoundException", f"Requested resource not found: {name}")
        return self.tables[name]


class _Change:
    """What a write does to one item: puts it, deletes it, or updates it."""

    def __init__(
        self,
        table: Table,
        key: Key,
        request: Mapping[str, Any],
        put: Item | None = None,
        *,
        delete: bool = False,
        checks_only: bool = False,
    ) -> None:
        self.table, self.key, self.put = table, key, put
        self.delete, self.checks_only = delete, checks_only
        self.request, self.trees = request, read_all(request)
        self.values: Mapping[str, Value] = request.get("ExpressionAttributeValues") or {}
        self.before = table.get(key)

    def holds(self) -> bool:
        """Whether the condition does."""
        condition = self.trees.get("ConditionExpression")
        return condition is None or condition(self.before or {}, self.values)

    def after(self) -> Item | None:
        """The item that is there afterwards; raises a ValidationException."""
        if self.delete or self.checks_only:
            return None
        if self.put is not None:
            return self.put
        keys = {"pk": {"S": self.key[0]}, "sk": {"S": self.key[1]}}
        actions = self.trees.get("UpdateExpression", [])
        for action in actions:
            if action.path[0] in keys:
                raise invalid(f"Cannot update attribute {action.path[0]}. This attribute is part of the key")
        item = measured(updated(self.before or keys, actions, self.values))
        check_indexed(self.table, item)
        check_size(item, "Item size to update has exceeded the maximum allowed size")
        return item

    def size(self) -> int:
        """Its share of a transaction's bytes."""
        if self.put is not None:
            return item_size(self.put)
        return sum(map(len, self.key)) + sum(item_size({"": value}) for value in self.values.values())

    def shows_refused(self) -> bool:
        """Whether a refusal is to show what is there."""
        return bool(self.request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD")

    def answer(self, after: Item | None) -> Answer:
        """What ReturnValues asks for."""
        actions = self.trees.get("UpdateExpression", [])
        match self.request.get("ReturnValues", "NONE"):
            case "ALL_OLD":
                found = self.before
            case "ALL_NEW":
                found = after
            case "UPDATED_NEW":
                found = touched(after or {}, actions)
            case "UPDATED_OLD":
                found = touched(self.before or {}, actions)
            case _:
                found = None
        return {"Attributes": dict(found)} if found else {}


def _tried(change: _Change) -> tuple[dict[str, Any], Item | None]:
    """The reason why a transaction's write cannot be made, or None; and the item afterwards."""
    if not change.holds():
        shown = {"Item": dict(change.before)} if change.shows_refused() and change.before else {}
        return {"Code": "ConditionalCheckFailed", "Message": CONDITION_FAILED, **shown}, None
    try:
        after = change.after()
        if change.put is not None:
            check_indexed(change.table, change.put)
            check_size(change.put)
    except ClientError as error:
        return {"Code": "ValidationError", "Message": error.response["Error"]["Message"]}, None
    return {"Code": "None"}, after


def _normal(item: Item) -> Item:
    return measured({name: stored(value) for name, value in item.items()})


def _stored(table: Table, item: Item) -> Item:
    found = _normal(item)
    check_indexed(table, found)
    check_size(found)
    return found


def _within(condition: KeyCondition, values: Mapping[str, Value], names: tuple[str, str]) -> tuple[str, str, list[Any]]:
    """The hash key, and the operator and bounds of what the range key must be."""
    operator, [value] = condition.get(names[0], ("", [""]))
    if operator != "=" or condition.keys() - {*names}:
        raise invalid(f"Query condition missed key schema element: {names[0]}")
    operator, bounds = condition.get(names[1], ("", ()))
    kind = "S" if names[1] == "sk" else "N"
    if not values[value].get("S") or any(kind not in values[bound] for bound in bounds):
        raise invalid("One or more parameter values were invalid: Condition parameter type does not match schema type")
    return values[value]["S"], operator, [comparable(values[bound])[1] for bound in bounds]  # type: ignore[index]


def _rest(found: list[Item], index: Index | None, start: Item, request: Mapping[str, Any]) -> list[Item]:
    """What comes behind a page's last key, which may be gone, or elsewhere in the index by now."""

    def place(item: Item) -> tuple[Any, ...]:
        key = key_of(item)
        if index is None:
            return place_of(key)
        hashed, ranged = (comparable(item[name])[1] for name in (index.hash_name, index.range_name))  # type: ignore[index]
        return (hashed, ranged, key)

    limit = place(start)
    if request.get("ScanIndexForward", True):
        return found[bisect_right(found, limit, key=place) :]
    return [item for item in found if place(item) < limit]
