"""How Athena writes values and names their types, for what comes out of DuckDB."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

TYPES = {
    "BOOLEAN": "boolean",
    "TINYINT": "tinyint",
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "UTINYINT": "smallint",
    "USMALLINT": "integer",
    "UINTEGER": "bigint",
    "UBIGINT": "bigint",
    "HUGEINT": "bigint",  # DuckDB's sum of integers
    "UHUGEINT": "bigint",
    "FLOAT": "float",
    "DOUBLE": "double",
    "VARCHAR": "varchar",
    "JSON": "json",
    "BLOB": "varbinary",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "UUID": "uuid",
}


def athena_type(kind: str) -> str:
    """Return the type that Athena gives a column."""
    kind = kind.upper()
    if kind.endswith("]"):
        return "array"
    for prefix, name in (("DECIMAL", "decimal"), ("STRUCT", "row"), ("MAP", "map"), ("TIMESTAMP_", "timestamp")):
        if kind.startswith(prefix):
            return name
    return TYPES.get(kind, "varchar")


def as_athena(value: Any) -> str | None:
    """Return the text of a value in a result row; None of NULL."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case float():
            return _double(value)
        case Decimal():
            return format(value, "f")
        case datetime():
            zone = "" if value.tzinfo is None else " UTC"
            plain = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
            return plain.isoformat(sep=" ", timespec="milliseconds") + zone
        case date():
            return value.isoformat()
        case bytes():
            return value.hex(" ")
        case list() | tuple():
            return "[" + ", ".join(_inner(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key}={_inner(item)}" for key, item in value.items()) + "}"
        case _:
            return str(value)


def _inner(value: Any) -> str:
    text = as_athena(value)
    return "null" if text is None else text


def _double(value: float) -> str:
    """As Java does it: an exponent from ten million up and below a thousandth."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value) if "e" not in repr(value) else format(value, "f")
    mantissa, _, exponent = format(Decimal(repr(value)), "E").partition("E")
    mantissa = mantissa.rstrip("0") if "." in mantissa else mantissa
    return (
        f"{mantissa if '.' in mantissa and not mantissa.endswith('.') else mantissa.rstrip('.') + '.0'}E{int(exponent)}"
    )
