"""moto's tables with only the items at hand that a query or transaction may be about.

moto sorts the whole table for each query, copies it for each transaction, and keeps every item that it ever made: with
the rollups of a year each takes seconds, and together more memory than a machine has. What the answer is stays moto's
own matter.
"""

from collections import defaultdict, deque
from copy import copy, deepcopy
from typing import Any

from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table

_query, _transact = Table.query, DynamoDBBackend.transact_write_items
_INDEX_NAME = 4  # its place among a query's arguments after the first three


def install() -> None:
    """Have moto use these; again does no harm."""
    Item.instances_tracked = deque(maxlen=0)  # type: ignore[attr-defined]
    Table.query = _query_few  # type: ignore[assignment, method-assign]
    DynamoDBBackend.transact_write_items = _transact_few  # type: ignore[method-assign]


def _query_few(self: Table, hash_key: Any, comparison: str | None, values: list[Any], *args: Any, **named: Any) -> Any:
    table = copy(self)  # other threads see the table as it is
    found: dict[Any, dict[Any, Any]] = {}
    if args[_INDEX_NAME]:
        [(name, wanted)] = named["hash_key_conditions"]
        for pk, partition in list(self.items.items()):
            for sk, item in list(partition.items()):
                if name in item.attrs and item.attrs[name] == wanted:  # most items are in no index
                    found.setdefault(pk, {})[sk] = item
    else:
        partition = self.items.get(hash_key, {})
        if comparison == "BETWEEN":  # of texts, as all our keys are; what else there is moto compares
            first, last = (value.value for value in values)
            partition = {sk: item for sk, item in list(partition.items()) if first <= sk.value <= last}
        elif comparison:
            partition = {sk: item for sk, item in list(partition.items()) if sk.compare(comparison, values)}
        found = {hash_key: partition}
    table.items = defaultdict(dict, found)
    return _query(table, hash_key, comparison, values, *args, **named)


def _transact_few(self: DynamoDBBackend, transact_items: list[dict[str, Any]]) -> None:
    few = copy(self)
    few.tables = dict(self.tables)
    touched = []
    for write in transact_items:
        [operation] = write.values()
        name = operation["TableName"]
        table = self.tables[name]
        key = operation.get("Key") or operation["Item"]
        pk, sk = (DynamoType(key[part]) for part in (table.hash_key_attr, table.range_key_attr))
        if few.tables[name] is table:
            few.tables[name] = copy(table)
            few.tables[name].items = defaultdict(dict)
        if sk in table.items.get(pk, {}):
            # Its own: an update changes an item in place, and what fails after it must not leave that behind.
            few.tables[name].items[pk][sk] = deepcopy(table.items[pk][sk])
        touched.append((name, pk, sk))
    shards = {name: self.tables[name].stream_shard for name, _, _ in touched}
    told = {name: len(shard.items) for name, shard in shards.items() if shard}
    try:
        _transact(few, transact_items)
    except Exception:
        for name, count in told.items():  # of a transaction that is cancelled the stream says nothing
            del shards[name].items[count:]  # type: ignore[union-attr]
        raise
    for name, pk, sk in touched:
        if (item := few.tables[name].items[pk].get(sk)) is None:
            self.tables[name].items[pk].pop(sk, None)
        else:
            self.tables[name].items[pk][sk] = item
