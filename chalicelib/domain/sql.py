"""Confines an analyst's SQL to the rows of one project, by the query's scope tree and not by its text."""

import re

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from chalicelib.domain.errors import InvalidRequest
from chalicelib.domain.snapshots import Snapshot

TABLE = "events"
COLUMNS = (
    "event_id",
    "event_type",
    "schema_version",
    "user_id",
    "anonymous_id",
    "session_id",
    "occurred_at",
    "received_at",
    "client_timestamp",
    "properties",
    "context",
    "enrichment",
    "dt",
    "hr",
)
CARRIED = ("this", "db", "catalog", "alias", "joins", "laterals", "sample")  # of a table reference
MAX_SQL_LENGTH = 65_536  # Athena's own limit is 262,144 bytes


FILE_NAME = """regexp_extract("$path", '[^/]+$')"""
COPY = "$copy"


def confine(sql: str, *, project: str, lake_table: str, snapshot: Snapshot) -> str:
    """The same query with every reference to `events` replaced by the project's rows of `lake_table`, each event once.

    Raises InvalidRequest for anything but one SELECT (CTEs and set operations included) on `events` alone.
    """
    if len(sql) > MAX_SQL_LENGTH:
        raise InvalidRequest(f"the query has {len(sql)} characters; the limit is {MAX_SQL_LENGTH}", code="invalid_sql")
    try:
        statements = [s for s in sqlglot.parse(sql, read="athena") if s is not None]
    except (SqlglotError, RecursionError) as error:
        raise InvalidRequest(f"the query cannot be parsed: {_plain(error)}", code="invalid_sql") from error
    if len(statements) != 1:
        raise InvalidRequest(f"the text has {len(statements)} statements; send one", code="invalid_sql")
    query = statements[0]
    if not isinstance(query, exp.Query):
        raise InvalidRequest(f"only SELECT is answered, and this is {query.key.upper()}", code="invalid_sql")
    for forbidden in (exp.Into, exp.Lock, exp.Command, exp.DML, exp.DDL):
        if any(node is not query and not isinstance(node, exp.Query) for node in query.find_all(forbidden)):
            raise InvalidRequest(
                f"only SELECT is answered, and this holds {forbidden.__name__.upper()}", code="invalid_sql"
            )

    try:
        scopes = traverse_scope(query)
    except (SqlglotError, RecursionError) as error:
        raise InvalidRequest(f"the query cannot be resolved: {str(error)[:500]}", code="invalid_sql") from error
    # What a scope does not resolve to a CTE or a subquery of the query itself is a real table.
    real = {
        id(source): source for scope in scopes for source in scope.sources.values() if isinstance(source, exp.Table)
    }
    own = {
        id(node)
        for scope in scopes
        for name, node in scope.references
        if not isinstance(scope.sources.get(name), exp.Table)
    }
    rows = _seen(project, lake_table, snapshot)
    for table in list(query.find_all(exp.Table)):
        if id(table) in own and id(table) not in real:
            continue
        _require_events(table)
        table.replace(_rows_of(rows, alias=table.alias or TABLE, original=table))
    return query.sql(dialect="athena")


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", str(error))[:500]  # the parser underlines for terminals


def _require_events(table: exp.Table) -> None:
    unsupported = [name for name, value in table.args.items() if value and name not in CARRIED]
    if unsupported:
        raise InvalidRequest(f"{', '.join(unsupported)} is not answered on a table; use a subquery", code="invalid_sql")
    plain = isinstance(table.this, exp.Identifier) and not table.args.get("db") and not table.args.get("catalog")
    if not plain or table.name.lower() != TABLE:
        raise InvalidRequest(
            f"{table.sql(dialect='athena')[:200]!r} is no table here; there is one, {TABLE}", code="invalid_sql"
        )


def _seen(project: str, lake_table: str, snapshot: Snapshot) -> exp.Query:
    """The project's rows. `received_at` and the rest decide as the consolidation does which row of an event stays."""
    own = exp.column("project", quoted=True).eq(exp.Literal.string(project))
    columns = [exp.column(name, quoted=True) for name in COLUMNS]
    lake = exp.to_table(lake_table, dialect="athena")
    settled = exp.select(*columns).from_(lake).where(own, snapshot.settled(FILE_NAME), dialect="athena")
    if not snapshot.open:
        return settled
    numbered = f"""row_number() OVER (
        PARTITION BY dt, hr, event_id ORDER BY received_at, occurred_at, "$path") AS "{COPY}\""""
    copies = (
        exp.select(*columns)
        .select(numbered, dialect="athena")
        .from_(lake)
        .where(own, snapshot.unsettled(FILE_NAME), dialect="athena")
        .subquery("copies")
    )
    once = exp.select(*columns).from_(copies).where(exp.column(COPY, quoted=True).eq(1))
    return once if snapshot.unlimited else exp.union(settled, once, distinct=False)


def _rows_of(rows: exp.Query, *, alias: str, original: exp.Table) -> exp.Expression:
    replaced = rows.copy().subquery(alias)
    for kept in CARRIED[3:]:
        if original.args.get(kept):
            replaced.set(kept, original.args[kept])
    return replaced
