"""DynamoDB's expressions: read once, then functions of an item and the request's values.

The grammar is AWS's: conditions, updates, key conditions, projections. Reserved words are not refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.ports.items import Item, Value, comparable, invalid, is_less

Values = Mapping[str, Value]
Path = tuple[str | int, ...]
Node = tuple[Any, ...]
Condition = Callable[[Item, Values], bool]

_TOKEN = re.compile(r"\s*(<>|<=|>=|[=<>(),.+\-\[\]]|[:#]?\w+)")
_FUNCTIONS = {"attribute_exists", "attribute_not_exists", "begins_with", "contains", "attribute_type"}
_CLAUSES = ("SET", "REMOVE", "ADD", "DELETE")


@dataclass
class _Reader:
    """Reads an expression token by token, and notes which names and values it uses."""

    text: str
    names: Mapping[str, str]
    used_names: set[str] = field(default_factory=set)
    used_values: set[str] = field(default_factory=set)
    at: int = 0

    def __post_init__(self) -> None:
        self.tokens: list[str] = []
        text, at = self.text.strip(), 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise invalid(f"Invalid expression: Syntax error; token: {text[at : at + 10]!r}")
            self.tokens.append(match[1])
            at = match.end()

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token.upper() not in expected):
            raise invalid(f"Invalid expression: Syntax error; token: {token or '<EOF>'}")
        self.at += 1
        return token

    def takes(self, token: str) -> bool:
        if self.peek().upper() != token:
            return False
        self.at += 1
        return True

    def path(self) -> Path:
        parts: list[str | int] = [self._name()]
        while True:
            if self.takes("."):
                parts.append(self._name())
            elif self.takes("["):
                parts.append(int(self.next()))
                self.next("]")
            else:
                return tuple(parts)

    def _name(self) -> str:
        token = self.next()
        if not token.startswith("#"):
            return token
        if token not in self.names:
            raise invalid(f"An expression attribute name used in the document path is not defined; name: {token}")
        self.used_names.add(token)
        return self.names[token]

    def operand(self) -> Node:
        if self.peek().startswith(":"):
            self.used_values.add(self.peek())
            return "value", self.next()
        name = self.peek()
        if name in ("size", "if_not_exists", "list_append") and self.tokens[self.at + 1 : self.at + 2] == ["("]:
            self.next()
            return name, *self._arguments()
        return "path", self.path()

    def _arguments(self) -> list[Node]:
        self.next("(")
        found = [self.operand()]
        while self.takes(","):
            found.append(self.operand())
        self.next(")")
        return found

    def condition(self) -> Node:
        found = self._conjunction()
        while self.takes("OR"):
            found = "or", found, self._conjunction()
        return found

    def _conjunction(self) -> Node:
        found = self._term()
        while self.takes("AND"):
            found = "and", found, self._term()
        return found

    def _term(self) -> Node:
        if self.takes("NOT"):
            return "not", self._term()
        if self.takes("("):
            found = self.condition()
            self.next(")")
            return found
        if self.peek() in _FUNCTIONS:
            return "call", self.next(), self._arguments()
        left = self.operand()
        operator = self.next("=", "<>", "<", "<=", ">", ">=", "BETWEEN", "IN").upper()
        if operator == "BETWEEN":
            low = self.operand()
            self.next("AND")
            return "between", left, low, self.operand()
        return ("in", left, self._arguments()) if operator == "IN" else ("compare", operator, left, self.operand())

    def end(self) -> None:
        if self.peek():
            raise invalid(f"Invalid expression: Syntax error; token: {self.peek()}")


@dataclass(frozen=True)
class Read:
    """What an expression says, and the placeholders that it uses."""

    tree: Any
    names: frozenset[str]
    values: frozenset[str]


def _read(kind: str, text: str, names: tuple[tuple[str, str], ...]) -> Read:
    reader = _Reader(text, dict(names))
    match kind:
        case "condition":
            tree: Any = _predicate(reader.condition())
        case "key":
            tree = _key_condition(reader.condition())
        case "update":
            tree = _actions(reader)
        case _:
            tree = [reader.path()]
            while reader.takes(","):
                tree.append(reader.path())
    reader.end()
    return Read(tree, frozenset(reader.used_names), frozenset(reader.used_values))


_PARTS = {
    "ConditionExpression": "condition",
    "FilterExpression": "condition",
    "KeyConditionExpression": "key",
    "UpdateExpression": "update",
    "ProjectionExpression": "projection",
}


_EMPTY: dict[str, Any] = {}
_TREES: dict[Any, dict[str, Any]] = {}


def read_all(request: Mapping[str, Any]) -> dict[str, Any]:
    """Each expression of a request by its parameter's name; raises a ValidationException, also for what is not used."""
    names, values = (
        request.get("ExpressionAttributeNames") or _EMPTY,
        request.get("ExpressionAttributeValues") or _EMPTY,
    )
    texts = tuple([(part, request[part]) for part in _PARTS if request.get(part)])
    if not texts and not names and not values:
        return _EMPTY
    key = (texts, tuple(names.items()), tuple(values))
    if key not in _TREES:
        _TREES[key] = _read_all(texts, names, values.keys())
    return _TREES[key]


def _read_all(texts: Iterable[tuple[str, str]], names: Mapping[str, str], values: Set[str]) -> dict[str, Any]:
    found = {part: _read(_PARTS[part], text, tuple(names.items())) for part, text in texts}
    used_names = frozenset().union(*(read.names for read in found.values()))
    used_values = frozenset().union(*(read.values for read in found.values()))
    if names.keys() - used_names:
        raise invalid("Value provided in ExpressionAttributeNames unused in expressions")
    if values - used_values:
        raise invalid("Value provided in ExpressionAttributeValues unused in expressions")
    if used_values - values:
        missing = sorted(used_values - values)[0]
        raise invalid(f"An expression attribute value used in expression is not defined; attribute value: {missing}")
    return {part: read.tree for part, read in found.items()}


def value_at(item: Item, path: Path) -> Value | None:
    """What an item has at a document path."""
    found = item.get(path[0])  # type: ignore[arg-type]
    for part in path[1:]:
        if found is None:
            return None
        if isinstance(part, int):
            elements = found.get("L", ())
            found = elements[part] if part < len(elements) else None
        else:
            found = found.get("M", {}).get(part)
    return found


def _operand(node: Node) -> Callable[[Item, Values], Value | None]:
    kind, *rest = node
    if kind == "value":
        return lambda _item, values: values[rest[0]]
    if kind == "path":
        return lambda item, _values: value_at(item, rest[0])
    if kind == "size":
        measured = _operand(rest[0])
        return lambda item, values: _length(measured(item, values))
    left, right = map(_operand, rest)
    if kind == "if_not_exists":
        return lambda item, values: left(item, values) or right(item, values)
    return lambda item, values: {"L": [*(left(item, values) or {})["L"], *(right(item, values) or {})["L"]]}


def _length(value: Value | None) -> Value | None:
    if value is None:
        return None
    [(kind, content)] = value.items()
    return {"N": str(len(content.encode()) if kind == "S" else len(content))}


def _predicate(node: Node) -> Condition:
    kind, *rest = node
    if kind in ("and", "or"):
        left, right = map(_predicate, rest)
        if kind == "and":
            return lambda item, values: left(item, values) and right(item, values)
        return lambda item, values: left(item, values) or right(item, values)
    if kind == "not":
        inner = _predicate(rest[0])
        return lambda item, values: not inner(item, values)
    if kind == "call":
        return _function(*rest)
    if kind == "between":
        found, low, high = map(_operand, rest)

        def lies_between(item: Item, values: Values) -> bool:
            at, first, last = (each(item, values) for each in (found, low, high))
            return (is_less(first, at) or _same(first, at)) and (is_less(at, last) or _same(at, last))

        return lies_between
    if kind == "in":
        found, among = _operand(rest[0]), [_operand(each) for each in rest[1]]
        return lambda item, values: any(_same(found(item, values), each(item, values)) for each in among)
    return _comparison(*rest)


def _comparison(operator: str, left_node: Node, right_node: Node) -> Condition:
    one, other = _operand(left_node), _operand(right_node)
    match operator:
        case "=":
            return lambda item, values: _same(one(item, values), other(item, values))
        case "<>":
            return lambda item, values: comparable(one(item, values)) != comparable(other(item, values))
        case "<":
            return lambda item, values: is_less(one(item, values), other(item, values))
        case ">":
            return lambda item, values: is_less(other(item, values), one(item, values))
    strict = _comparison(operator[0], left_node, right_node)
    return lambda item, values: strict(item, values) or _same(one(item, values), other(item, values))


def _same(one: Value | None, other: Value | None) -> bool:
    return one is not None and comparable(one) == comparable(other)


def _function(name: str, arguments: Sequence[Node]) -> Condition:
    if name in ("attribute_exists", "attribute_not_exists"):
        path, wanted = arguments[0][1], name == "attribute_exists"
        return lambda item, _values: (value_at(item, path) is not None) == wanted
    found, other = map(_operand, arguments)
    if name == "begins_with":
        return lambda item, values: _begins(found(item, values), other(item, values))
    if name == "attribute_type":
        return lambda item, values: next(iter(found(item, values) or {""}), "") == (other(item, values) or {})["S"]
    return lambda item, values: _contains(found(item, values), other(item, values))


def _begins(value: Value | None, prefix: Value | None) -> bool:
    left, right = comparable(value), comparable(prefix)
    if left is None or right is None or left[0] != right[0] or left[0] not in ("S", "B"):
        return False
    return bool(left[1].startswith(right[1]))


def _contains(value: Value | None, part: Value | None) -> bool:
    left, right = comparable(value), comparable(part)
    if left is None or right is None:
        return False
    if left[0] in ("SS", "NS", "BS"):
        return right[1] in left[1]
    if left[0] == "L":
        return right in left[1]
    return left[0] == right[0] == "S" and right[1] in left[1]


KeyCondition = dict[str, tuple[str, tuple[str, ...]]]  # by attribute: the operator, and the values' placeholders


def _key_condition(node: Node) -> KeyCondition:
    terms = [node[1], node[2]] if node[0] == "and" else [node]
    found: KeyCondition = {}
    for term in terms:
        match term:
            case ("compare", str(operator), ("path", (str(name),)), ("value", str(value))) if operator != "<>":
                found[name] = operator, (value,)
            case ("between", ("path", (str(name),)), ("value", str(low)), ("value", str(high))):
                found[name] = "between", (low, high)
            case ("call", "begins_with", [("path", (str(name),)), ("value", str(prefix))]):
                found[name] = "begins_with", (prefix,)
            case _:
                raise invalid("Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression")
    if len(found) < len(terms):
        raise invalid("KeyConditionExpressions must only contain one condition per key")
    return found


@dataclass(frozen=True)
class Action:
    """A part of an update; `value` is None of a removal."""

    kind: str
    path: Path
    value: Callable[[Item, Values], Value | None] | None
    sign: int = 0  # of a second operand, which is added or subtracted
    more: Callable[[Item, Values], Value | None] | None = None


def _actions(reader: _Reader) -> list[Action]:
    found: list[Action] = []
    seen: set[str] = set()
    while reader.peek():
        clause = reader.next(*_CLAUSES).upper()
        if clause in seen:
            raise invalid(f'Invalid UpdateExpression: The "{clause}" section can only be used once')
        seen.add(clause)
        while True:
            path = reader.path()
            if clause == "SET":
                reader.next("=")
                value, sign, more = _operand(reader.operand()), 0, None
                if reader.peek() in ("+", "-"):
                    sign = 1 if reader.next() == "+" else -1
                    more = _operand(reader.operand())
                found.append(Action(clause, path, value, sign, more))
            else:
                found.append(Action(clause, path, None if clause == "REMOVE" else _operand(reader.operand())))
            if not reader.takes(","):
                break
    for number, action in enumerate(found):
        for other in found[:number]:
            length = min(len(action.path), len(other.path))
            if action.path[:length] == other.path[:length]:
                raise invalid("Invalid UpdateExpression: Two document paths overlap with each other")
    return found
