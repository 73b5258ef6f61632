"""Confines an analyst's SQL to the rows of one project, by the query's scope tree and not by its text.

What is sent is written anew from the tree, every name quoted and without comments, so that no two readings of a text,
the parser's and the engine's, come apart.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.optimizer.scope import traverse_scope
from sqlglot.tokenizer_core import Token, TokenType

from chalicelib.base.errors import InvalidRequest, quoted
from chalicelib.lake.visible_files import VisibleFiles
from chalicelib.sql.allowed import refusal
from chalicelib.sql.query_requests import MAX_SQL_LENGTH, Value

TABLE = "events"
ROWS = "$events"  # what the project's rows are called in what is sent
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
CARRIED = ("this", "alias", "joins", "laterals", "sample")  # of a reference to a table
MAX_TOKENS = 20_000
MAX_TABLES = 200  # named in a query; scopes take the square of them
MAX_DEPTH = 100  # of brackets; the parser and its trees are recursive
MAX_TYPES_DEPTH = 6  # of brackets behind what may be a type, such as DATE( or ARRAY[: each doubles the parser's time
MAX_SENT_LENGTH = 262_144  # Athena's limit of a query string, in bytes
MAX_ROWS = 1_000_000  # of a result
MAX_LIST = 1000  # values of one parameter

FILE_NAME = """regexp_extract("$path", '[^/]+$')"""
COPY = "$copy"

_OPENING = frozenset((TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE))
_CLOSING = frozenset((TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE))

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its warnings quote the query


@dataclass(frozen=True, slots=True)
class Statement:
    """One SELECT that may be asked: read, and found to hold nothing that is not allowed."""

    tree: exp.Query

    @property
    def parameters(self) -> list[str]:
        """The names of what stands as `:name`."""
        return sorted({node.name for node in self.tree.find_all(exp.Placeholder)})


def read(sql: str) -> Statement:
    """Raises InvalidRequest, with line and column where there is one, for anything but one SELECT on `events`.

    CTEs and set operations are part of a SELECT.
    """
    if len(sql) > MAX_SQL_LENGTH:
        raise _invalid(f"the query has {len(sql)} characters; the limit is {MAX_SQL_LENGTH}")
    try:
        return _read(sql)
    except ParseError as error:
        raise _invalid(_position(error)) from error
    except (SqlglotError, RecursionError) as error:
        raise _invalid(f"the query cannot be read: {_plain(str(error))}") from error


def _read(sql: str) -> Statement:
    _require_bounds(sqlglot.tokenize(sql, read="athena"))
    statements = [s for s in sqlglot.parse(sql, read="athena") if s is not None]
    if len(statements) != 1:
        raise _invalid(f"the text has {len(statements)} statements; send one")
    tree = statements[0]
    if not isinstance(tree, exp.Query):
        raise _invalid(f"only SELECT is answered, and this is {tree.key.upper()}")
    for node in tree.walk():
        if refused := refusal(node):
            raise _invalid(f"{refused} is not answered here; docs/api.md has what is")
        if isinstance(node, exp.Placeholder) and not node.this:
            raise _invalid("? is not answered; give parameters names, such as :start")
    _require_events(tree)
    return Statement(tree)


def confine(
    statement: Statement,
    *,
    project: str,
    lake_table: str,
    visible: VisibleFiles,
    parameters: Mapping[str, Value] | None = None,
    max_rows: int = MAX_ROWS,
) -> str:
    """The query as Athena is asked: `events` is the project's rows of `lake_table`, each event once.

    Raises InvalidRequest when the parameters are not those of the statement, or the text gets too long.
    """
    tree = statement.tree.copy()
    tables = _real_tables(tree)
    for table in tables:
        if not table.args.get("alias"):
            table.set("alias", exp.TableAlias(this=exp.to_identifier(TABLE)))
        table.set("this", exp.to_identifier(ROWS, quoted=True))
    _bind(tree, parameters or {})
    _limit(tree, max_rows)
    if tables:
        _define(tree, _seen(project, lake_table, visible))
    try:
        sent = tree.sql(dialect="athena", identify=True, comments=False)
    except RecursionError as error:
        raise _invalid("the query is nested too deep to be written") from error
    if len(sent.encode()) > MAX_SENT_LENGTH:
        raise _invalid(f"the query has {len(sent.encode())} bytes with its parameters; the limit is {MAX_SENT_LENGTH}")
    return sent


def _require_bounds(tokens: Sequence[Token]) -> None:
    """Refuse what would keep the parser busy for minutes, or be too deep for it."""
    if len(tokens) > MAX_TOKENS:
        raise _invalid(f"the query has {len(tokens)} words and signs; the limit is {MAX_TOKENS}")
    open_brackets: list[bool] = []
    typed = False
    for token in tokens:
        if token.token_type in _OPENING:
            open_brackets.append(typed)
            if len(open_brackets) > MAX_DEPTH or (typed and sum(open_brackets) > MAX_TYPES_DEPTH):
                limit = f"{MAX_DEPTH}, and {MAX_TYPES_DEPTH} of types and their values"
                raise _invalid(f"line {token.line}:{token.col}: brackets are nested too deep; the limit is {limit}")
        elif token.token_type in _CLOSING and open_brackets:
            open_brackets.pop()
        typed = token.token_type in sqlglot.Parser.TYPE_TOKENS


def _define(tree: exp.Query, rows: exp.Query) -> None:
    """Name the rows, once, before everything else that the query names."""
    named = exp.CTE(this=rows, alias=exp.TableAlias(this=exp.to_identifier(ROWS, quoted=True)))
    if with_ := tree.args.get("with_"):
        with_.set("expressions", [named, *with_.expressions])
    else:
        tree.set("with_", exp.With(expressions=[named]))


def _require_events(tree: exp.Query) -> None:
    tables = list(tree.find_all(exp.Table))
    if len(tables) > MAX_TABLES:
        raise _invalid(f"the query names {len(tables)} tables; the limit is {MAX_TABLES}")
    for name in (*tables, *tree.find_all(exp.CTE)):
        _fold_case(name)
    for table in _real_tables(tree):
        unsupported = [name for name, value in table.args.items() if value and name not in (*CARRIED, "db", "catalog")]
        if unsupported:
            raise _invalid(f"{', '.join(unsupported)} is not answered on a table; use a subquery")
        plain = isinstance(table.this, exp.Identifier) and not table.args.get("db") and not table.args.get("catalog")
        if not plain or table.name != TABLE:
            raise _invalid(f"{table.sql(dialect='athena')[:200]!r} is no table here; there is one, {TABLE}")


def _fold_case(named: exp.Expr) -> None:
    """Athena's names have no case, quoted or not; the scopes' have."""
    name = named.args["alias"].this if isinstance(named, exp.CTE) else named.this
    if isinstance(name, exp.Identifier):
        name.set("this", name.name.lower())


def _real_tables(tree: exp.Query) -> list[exp.Table]:
    """Return what no scope resolves to a CTE or a subquery of the query itself."""
    scopes = traverse_scope(tree)
    real = {
        id(source): source for scope in scopes for source in scope.sources.values() if isinstance(source, exp.Table)
    }
    own = {
        id(node)
        for scope in scopes
        for name, node in scope.references
        if not isinstance(scope.sources.get(name), exp.Table)
    }
    return [table for table in tree.find_all(exp.Table) if id(table) not in own or id(table) in real]


def _bind(tree: exp.Query, parameters: Mapping[str, Value]) -> None:
    needed = {node.name for node in tree.find_all(exp.Placeholder)}
    for name in sorted(needed ^ parameters.keys()):
        problem = "the query has no such parameter" if name in parameters else "the query needs it"
        known = f"; it has {', '.join(f':{each}' for each in sorted(needed))}" if needed else ""
        raise InvalidRequest(f"parameters.{name[:64]}: {problem}{known}", code="invalid_parameter")
    for node in list(tree.find_all(exp.Placeholder)):
        value = parameters[node.name]
        if not isinstance(value, str) and isinstance(value, Sequence):
            if not (isinstance(node.parent, exp.In) and node.arg_key == "expressions"):
                raise _unfit(node.name, value, "a list stands in IN (:name) alone")
            if not 1 <= len(value) <= MAX_LIST:
                raise _unfit(node.name, value, f"it has {len(value)} values, and may have 1 to {MAX_LIST}")
            literals = [_literal(node.name, each) for each in value]
        else:
            literals = [_literal(node.name, value)]
        node.replace(literals[0]) if len(literals) == 1 else _spread(node, literals)


def _spread(node: exp.Expr, literals: list[exp.Expr]) -> None:
    inside = node.parent
    assert inside is not None
    inside.set("expressions", [e for each in inside.expressions for e in (literals if each is node else [each])])


def _literal(name: str, value: object) -> exp.Expr:
    if value is None or isinstance(value, str | int | float):  # of which a boolean is an integer
        return exp.convert(value)
    raise _unfit(name, value, "it must be text, a number, true, false, null or a list of these")


def _unfit(name: str, value: object, problem: str) -> InvalidRequest:
    return InvalidRequest(f"parameters.{name}: {problem} (it is {quoted(value)})", code="invalid_parameter")


def _limit(tree: exp.Query, max_rows: int) -> None:
    """No more rows than that, whatever limit the query has itself."""
    limit = tree.args.get("limit")
    asked = limit and (limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression)
    if asked is not None and not (isinstance(asked, exp.Literal) and asked.name.isdigit()):
        unlimited = isinstance(asked, exp.Var) and asked.name.upper() == "ALL"
        if not unlimited:
            raise _invalid(f"LIMIT {asked.sql(dialect='athena')[:64]}: a limit is a whole number")
        asked = None
    if asked is None or int(asked.name) > max_rows:
        tree.set("limit", exp.Limit(expression=exp.Literal.number(max_rows)))


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_sql")


def _position(error: ParseError) -> str:
    found = error.errors[0] if error.errors else {}
    if not found.get("line"):
        return f"the query cannot be read: {_plain(str(error))}"
    near = f" near {found['highlight'][:64]!r}" if found.get("highlight") else ""
    return f"line {found['line']}:{found['col']}: {_plain(found['description'])}{near}"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)[:500]  # the parser underlines for terminals


def _seen(project: str, lake_table: str, visible: VisibleFiles) -> exp.Query:
    """The project's rows, each event once: of several the one received first, which consolidating decides by slots."""
    own = exp.column("project", quoted=True).eq(exp.Literal.string(project))
    columns = [exp.column(name, quoted=True) for name in COLUMNS]
    lake = exp.to_table(lake_table, dialect="athena")
    settled = exp.select(*columns).from_(lake).where(own, visible.settled(FILE_NAME), dialect="athena")
    if not visible.hours:
        return settled
    numbered = f"""row_number() OVER (
        PARTITION BY dt, hr, event_id ORDER BY received_at, occurred_at, "$path") AS "{COPY}\""""
    copies = (
        exp.select(*columns)
        .select(numbered, dialect="athena")
        .from_(lake)
        .where(own, visible.unsettled(FILE_NAME), dialect="athena")
        .subquery("copies")
    )
    once = exp.select(*columns).from_(copies).where(exp.column(COPY, quoted=True).eq(1))
    return once if visible.unlimited else exp.union(settled, once, distinct=False)
