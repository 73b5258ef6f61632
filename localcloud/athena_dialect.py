"""From Athena's SQL to DuckDB's: sqlglot does most of it, and this the rest."""

import re
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

# What Athena has and DuckDB has not, in DuckDB's words.
MACROS = (
    # Joda's letters, as far as a date needs them.
    """CREATE MACRO format_datetime(moment, pattern) AS strftime(moment,
        replace(replace(replace(replace(replace(replace(replace(pattern, 'yyyy', '%Y'), 'MM', '%m'), 'dd', '%d'),
        'HH', '%H'), 'mm', '%M'), 'ss', '%S'), 'EEE', '%a'))""",
    """CREATE MACRO to_iso8601(moment) AS CASE
        WHEN typeof(moment) = 'DATE' THEN strftime(CAST(moment AS TIMESTAMP), '%Y-%m-%d')
        WHEN typeof(moment) = 'TIMESTAMP WITH TIME ZONE'
            THEN strftime(CAST(moment AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%gZ')
        ELSE strftime(CAST(moment AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%g') END""",
    "CREATE MACRO at_timezone(moment, zone) AS timezone(zone, CAST(moment AS TIMESTAMPTZ))",
    "CREATE MACRO from_iso8601_timestamp(text) AS CAST(text AS TIMESTAMPTZ)",
    "CREATE MACRO from_iso8601_date(text) AS CAST(text AS DATE)",
)


COMPLAINTS = {
    r'Referenced column "([^"]+)" not found': "COLUMN_NOT_FOUND: {place}Column '{name}' cannot be resolved",
    r"Function with name \"?(\w+)\"? does not exist": "FUNCTION_NOT_FOUND: {place}Function '{name}' not registered",
}


class QueryRefused(Exception):
    """The text is no query that Athena would run."""


def to_duckdb(query: str) -> exp.Expr:
    """Return the query's tree, ready to be written in DuckDB's dialect; raises QueryRefused."""
    tree = _parse(query)
    return tree.transform(_replace)


def in_athenas_words(reason: str, query: str) -> str:
    """DuckDB's complaint about a name as Athena makes it, with the name's place in the query."""
    for pattern, complaint in COMPLAINTS.items():
        if found := re.search(pattern, reason):
            name = found[1]
            places = [t for t in sqlglot.tokenize(query, read="athena") if t.text.lower() == name.lower()]
            # The last one: what the app puts before a query has such names as well.
            place = f"line {places[-1].line}:{places[-1].col - (places[-1].end - places[-1].start)}: " if places else ""
            return complaint.format(place=place, name=name)
    return reason


def named_tables(query: str) -> list[tuple[str, str]]:
    """Return the real tables, as (database or "", table): what a scope resolves to a CTE or a subquery is none."""
    found = {(table.db, table.name) for scope in traverse_scope(_parse(query)) for table in _tables(scope)}
    return sorted(found)


def only_projects(query: str, table: str) -> set[str] | None:
    """The projects whose files are enough: each reference to the table has `project` = or IN constants beside it.

    None when one has not. Athena also finds the condition further out or in a JOIN's ON; this looks at WHERE alone.
    """
    projects = set()
    for scope in traverse_scope(_parse(query)):
        where = scope.expression.args.get("where")
        conjuncts = _conjuncts(where.this) if where else []
        alone = len(scope.selected_sources) == 1
        for alias, source in scope.sources.items():
            if not isinstance(source, exp.Table) or source.name != table:
                continue
            names = ("", alias) if alone else (alias,)
            pinned = [found for node in conjuncts if (found := _pinned(node, names)) is not None]
            if len(pinned) != 1:
                return None
            projects |= pinned[0]
    return projects or None


def _conjuncts(condition: exp.Expr) -> list[exp.Expr]:
    return list(condition.flatten()) if isinstance(condition, exp.And) else [condition]


def _pinned(node: exp.Expr, tables: tuple[str, ...]) -> set[str] | None:
    """Return the projects that a condition allows, when that can be told from its text."""
    match node:
        case exp.EQ(this=exp.Column(name="project", table=table), expression=exp.Literal() as value):
            values = [value]
        case exp.In(this=exp.Column(name="project", table=table)):
            values = node.expressions
        case _:
            return None
    constant = values and all(isinstance(value, exp.Literal) and value.is_string for value in values)
    return {value.name for value in values} if constant and table in tables else None


def _tables(scope: object) -> list[exp.Table]:
    return [source for source in scope.sources.values() if isinstance(source, exp.Table)]  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _parse(query: str) -> exp.Query:
    """The query's tree, which nobody changes: with the conditions of many hours, parsing it takes most of a second."""
    try:
        statements = [statement for statement in sqlglot.parse(query, read="athena") if statement is not None]
    except SqlglotError as error:
        raise QueryRefused(f"SYNTAX_ERROR: {error}") from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise QueryRefused("SYNTAX_ERROR: the local Athena answers one SELECT")
    return statements[0]


def _replace(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.DateDiff):  # Athena counts whole units; DuckDB's date_diff counts boundaries
        unit = node.args.get("unit")
        name = exp.Literal.string((unit.name if unit else "day").lower())
        return exp.Anonymous(this="datesub", expressions=[name, node.expression, node.this])
    if isinstance(node, exp.AtTimeZone):  # of a plain timestamp, which is UTC; DuckDB would read it as the zone's own
        return exp.AtTimeZone(this=exp.cast(node.this, "timestamptz"), zone=node.args["zone"])
    return node
