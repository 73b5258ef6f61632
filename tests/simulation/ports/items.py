"""DynamoDB's attribute values: how large they are, how they compare, and which are refused.

Sizes as in https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.ports.client import refusal

Value = dict[str, Any]
Item = dict[str, Value]

MAX_ITEM_BYTES = 400 * 1024
MAX_DIGITS = 38
NUMBER_LIMIT = Decimal("1e126")
KEY_BYTES = {"HASH": 2048, "RANGE": 1024}


def invalid(message: str) -> ClientError:
    """What DynamoDB answers to a request that it can make nothing of."""
    return refusal("ValidationException", message)


def number(text: str) -> int | Decimal:
    """The number of an `N`; raises a ValidationException."""
    if len(text) < 18 and text.isdigit():
        return int(text)
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise invalid(f"The parameter cannot be converted to a numeric value: {text}") from None
    if not found.is_finite() or abs(found) >= NUMBER_LIMIT:
        raise invalid("Number overflow. Attempting to store a number with magnitude larger than supported range")
    if len(found.normalize().as_tuple().digits) > MAX_DIGITS:
        raise invalid("Attempting to store more than 38 significant digits in a Number")
    return found


def number_text(found: int | Decimal) -> str:
    """As DynamoDB gives a number back: no zeros that say nothing."""
    if isinstance(found, int):
        return str(found)
    text = format(found.normalize(), "f")
    return "0" if text == "-0" else text


def stored(value: Value) -> Value:
    """A value as it lies in the table, and as it comes back; raises a ValidationException."""
    [(kind, content)] = value.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return value if content.isdigit() and len(content) < 18 and content[0] != "0" else _n(content)
        case "B":
            return value if type(content) is bytes else {"B": bytes(content)}
        case "M":
            return {"M": {name: stored(each) for name, each in content.items()}}
        case "L":
            return {"L": [stored(each) for each in content]}
        case "SS" | "NS" | "BS":
            if not content:
                raise invalid("One or more parameter values were invalid: An string set  may not be empty")
            if len(set(content)) < len(content):
                raise invalid(f"One or more parameter values were invalid: Input collection {content} has duplicates")
            return {kind: sorted(_n(each)["N"] for each in content) if kind == "NS" else sorted(content)}
        case "NULL":
            return {"NULL": True}
    raise invalid(f"Supplied AttributeValue has an unknown type {kind}")


def _n(text: str) -> Value:
    return {"N": number_text(number(text))}


def size_of(value: Value) -> int:
    """A value's bytes, without its name."""
    kind: str
    content: Any
    [(kind, content)] = value.items()
    match kind:
        case "S":
            return len(content) if content.isascii() else len(content.encode())
        case "N":
            digits = content.lstrip("-").replace(".", "").strip("0")
            return (len(digits) + 1) // 2 + 1 + int(content[0] == "-")
        case "B":
            return len(content)
        case "BOOL" | "NULL":
            return 1
        case "M":
            return 3 + sum(len(name.encode()) + size_of(each) + 1 for name, each in content.items())
        case "L":
            return 3 + sum(size_of(each) + 1 for each in content)
        case "NS":
            return sum(size_of({"N": each}) for each in content)
        case "SS":
            return sum(len(each.encode()) for each in content)
    return len(b"".join(content))


class StoredItem(dict[str, Value]):
    """An item as a table has it, which nobody changes; measured once."""

    __slots__ = ("size",)
    size: int


def item_size(item: Mapping[str, Value]) -> int:
    """An item's bytes, names included."""
    if isinstance(item, StoredItem):
        return item.size
    return sum(len(name.encode()) + size_of(value) for name, value in item.items())


def measured(item: Item) -> StoredItem:
    """The item as a table keeps it."""
    found = StoredItem(item)
    found.size = sum(len(name.encode()) + size_of(value) for name, value in item.items())
    return found


def comparable(value: Value | None) -> tuple[str, Any] | None:
    """What decides whether two values are equal, and which one is greater when their first parts are the same."""
    if value is None:
        return None
    [(kind, content)] = value.items()
    if kind == "N":
        return "N", number(content)
    if kind in ("SS", "NS", "BS"):
        return kind, frozenset(number(each) if kind == "NS" else each for each in content)
    if kind == "M":
        return "M", tuple(sorted((name, comparable(each)) for name, each in content.items()))
    if kind == "L":
        return "L", tuple(map(comparable, content))
    return kind, bytes(content) if kind == "B" else content


def is_less(one: Value | None, other: Value | None) -> bool:
    """Whether the one comes before the other; never of values of different types, or of such as have no order."""
    left, right = comparable(one), comparable(other)
    if left is None or right is None or left[0] != right[0] or left[0] not in ("S", "N", "B"):
        return False
    return bool(left[1] < right[1])
