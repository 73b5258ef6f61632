"""Carries out DynamoDB's update expressions, and keeps of an item what a projection names."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tests.simulation.ports.expressions import Action, Path, Values, value_at
from tests.simulation.ports.items import Item, Value, invalid, number, number_text, stored

NO_PLACE = "The document path provided in the update expression is invalid for update"


def updated(item: Item, actions: Sequence[Action], values: Values) -> Item:
    """The item after the update, every operand as it was before; raises a ValidationException."""
    after = dict(item)
    for action in actions:
        _put(after, action.path, _new_value(item, action, values))
    return after


def touched(item: Item, actions: Sequence[Action]) -> Item:
    """The attributes that an update names."""
    names = [action.path[0] for action in actions]
    return {name: value for name, value in item.items() if name in names}


def projected(item: Item, paths: Sequence[Path]) -> Item:
    """What of the item the paths name."""
    found: Item = {}
    for path in paths:
        value = value_at(item, path)
        if value is not None:
            _put(found, path, value, make=True)
    return found


def _new_value(item: Item, action: Action, values: Values) -> Value | None:
    if action.value is None:
        return None
    value, before = action.value(item, values), value_at(item, action.path)
    if value is None:
        raise invalid("The provided expression refers to an attribute that does not exist in the item")
    if action.kind == "SET":
        if action.more is None:
            return stored(value)
        more = action.more(item, values)
        if more is None or "N" not in value or "N" not in more:
            raise invalid("An operand in the update expression has an incorrect data type")
        return {"N": number_text(number(value["N"]) + action.sign * number(more["N"]))}
    [(kind, content)] = value.items()
    if before is not None and kind not in before:
        raise invalid("An operand in the update expression has an incorrect data type")
    if action.kind == "ADD":
        if kind == "N":
            return {"N": number_text(number(content) + (number(before["N"]) if before else 0))}
        return stored({kind: sorted({*content, *(before[kind] if before else ())})})
    left = sorted({*(before[kind] if before else ())} - {*content})
    return {kind: left} if left else None


def _put(item: dict[str, Any], path: Path, value: Value | None, *, make: bool = False) -> None:
    """Put the value at the path, or remove what is there; containers on the way are copied."""
    place: Any = item
    for part, following in pairwise(path):
        kind = "L" if isinstance(following, int) else "M"
        inner = place.get(part) if isinstance(place, dict) else place[part]
        if inner is None and make:
            inner = {kind: [] if kind == "L" else {}}
        if inner is None or kind not in inner:
            if value is None:
                return
            raise invalid(NO_PLACE)
        copied = inner[kind].copy()
        place[part] = {kind: copied}
        place = copied
    last = path[-1]
    if isinstance(place, list):
        assert isinstance(last, int)
        if value is None:
            del place[last : last + 1]
        elif last < len(place):
            place[last] = value
        else:
            place.append(value)
    elif value is None:
        place.pop(last, None)
    else:
        place[last] = value
