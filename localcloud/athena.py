"""Answers Athena's queries with DuckDB, on the very Parquet files of the tables, linked into a folder per query.

MiniStack keeps the API (workgroups, executions, result pages); its runner is replaced, for it copies every object of
a table and runs the text as it is. The links make a table one consistent listing, and are all that a query can read.
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb
from sqlglot import exp

from localcloud.athena_dialect import MACROS, in_athenas_words, named_tables, only_projects, to_duckdb
from localcloud.athena_executions import OVER, STOPPED, Answered, Asked, Executions, QueryCancelled, QueryFailed
from localcloud.athena_values import as_athena, athena_type

QUERY_SECONDS = 120.0
WATCH_SECONDS = 0.05
WATCHER = "query watcher"
FETCHED_ROWS = 10_000
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # it is held in memory, and saved with the state
ROW_BYTES = 64  # of a row's own
ATTEMPTS = 20  # at a listing, which an object deleted meanwhile makes old
PATH = "$path"  # Athena's hidden column with each row's file
DUCKDB_TYPES = {
    "string": "VARCHAR",
    "varchar": "VARCHAR",
    "char": "VARCHAR",
    "boolean": "BOOLEAN",
    "tinyint": "TINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMP",  # Parquet's are UTC; Athena shows them as plain timestamps
    "binary": "BLOB",
}


def install(scratch: Path) -> Executions:
    """Answer Athena's queries from now on; `scratch` is on the file system of the objects."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)

    def run(asked: Asked) -> Answered:
        statement, tables = to_duckdb(asked.query), named_tables(asked.query)
        sources = [_Source.find(name, database or asked.database, asked.query) for database, name in tables]
        folder = scratch / uuid.uuid4().hex
        try:
            return _run(asked, statement, [source for source in sources if source], folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return Executions(run)


class _Source:
    """A Glue table and the files it stands for."""

    def __init__(self, database: str, table: dict[str, Any], bucket: str, prefix: str, folders: list[str]) -> None:
        from ministack.services import s3

        self.database = database
        self.name: str = table["Name"]
        self.columns = [(c["Name"], c["Type"]) for c in table["StorageDescriptor"].get("Columns", [])]
        self.partitions = [c["Name"] for c in table.get("PartitionKeys", [])]
        self.prefix = prefix
        self._folders = folders
        self._bucket = bucket
        self._objects = (s3._buckets.get(bucket) or {"objects": {}})["objects"]
        self._root = Path(s3.DATA_DIR) / s3.get_account_id() / bucket

    @classmethod
    def find(cls, name: str, database: str, query: str) -> "_Source | None":
        """None for a name that Glue does not know: DuckDB then says so. QueryFailed when no project is named."""
        from ministack.services import glue

        table = glue._tables.get(f"{database}/{name}")
        location = ((table or {}).get("StorageDescriptor") or {}).get("Location")
        if not location:
            return None
        parts = urlsplit(location)
        prefix = parts.path.strip("/") + "/"
        projects = only_projects(query, name)
        if projects is None and table.get("Parameters", {}).get("projection.project.type") == "injected":
            raise QueryFailed(
                "CONSTRAINT_VIOLATION: For the injected projected partition column project, the WHERE clause must "
                "contain only static equality conditions, and at least one such condition must be present"
            )
        folders = [prefix] if projects is None else [f"{prefix}project={project}/" for project in sorted(projects)]
        return cls(database, table, parts.netloc, prefix, folders)

    def link(self, folder: Path) -> "_Linked":
        """Link the table's files below `folder` as they are now.

        A listing of which a file was deleted meanwhile is read again, for what replaced it is not in it. Only what is
        new is linked then, so that this ends also while many are deleted one after another.
        """
        target, linked = folder / uuid.uuid4().hex, dict[str, Path]()
        for _ in range(ATTEMPTS):
            whole, keys = True, list(self._keys())
            for key in linked.keys() - set(keys):
                linked.pop(key).unlink()
            for key in keys:
                if key not in linked:
                    try:
                        linked[key] = self._link_one(key, target)
                    except FileNotFoundError:
                        whole &= key in self._objects  # else it is being written, and is not there yet
            if whole:
                return _Linked(target, list(linked.values()))
        raise QueryFailed("HIVE_CANNOT_OPEN_SPLIT: the table's files keep changing")

    def _keys(self) -> Iterable[str]:
        for key in list(self._objects):
            if key.endswith(".parquet") and any(key.startswith(folder) for folder in self._folders):
                yield key

    def _link_one(self, key: str, target: Path) -> Path:
        link = target / key.removeprefix(self.prefix)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(self._root / key, link)
        return link

    def define(self, connection: duckdb.DuckDBPyConnection, linked: "_Linked", *, with_path: bool) -> None:
        """Make the table a view with Glue's columns, whatever each file has of them.

        `"$path"`, which Athena leaves out of `SELECT *`, is there when the query speaks of it. What a file's name says
        is joined to its rows: for columns that DuckDB reads from the names by itself, it works a condition out anew
        for each file, in seconds where a query names a hundred hours.
        """
        name = f"{_quoted(self.database)}.{_quoted(self.name)}"
        kinds = [(column, _duckdb_type(kind)) for column, kind in self.columns]
        named = [*self.partitions, *([PATH] if with_path else [])]
        if not linked.files:
            kinds += [(column, "VARCHAR") for column in named]
            empty = ", ".join(f"CAST(NULL AS {kind}) AS {_quoted(column)}" for column, kind in kinds)
            connection.execute(f"CREATE VIEW {name} AS SELECT {empty} WHERE false")
            return
        listed = ", ".join(_literal(str(file)) for file in linked.files)
        rows = f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true, filename = true)"
        there = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()}
        columns = [
            f"CAST({f'f.{_quoted(column)}' if column in there else 'NULL'} AS {kind}) AS {_quoted(column)}"
            for column, kind in kinds
        ]
        columns += [f"n.{_quoted(column)}" for column in named]
        names = f"{_quoted(self.database)}.{_quoted(f'{self.name}$names')}"
        says = [self._said(file.relative_to(linked.folder)) for file in linked.files]
        lists = [[str(file) for file in linked.files], *([said.get(column) for said in says] for column in named)]
        made = ", ".join(f"{_quoted(column)} VARCHAR" for column in ("file", *named))
        connection.execute(f"CREATE TABLE {names} ({made})")
        connection.execute(f"INSERT INTO {names} SELECT {', '.join(['unnest(?)'] * len(lists))}", lists)
        joined = f"{rows} AS f JOIN {names} AS n ON f.filename = n.file"
        connection.execute(f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM {joined}")

    def _said(self, file: Path) -> dict[str, str]:
        """Return what a file's name says, below the table's place."""
        parts = (folder.partition("=") for folder in file.parts[:-1])
        said = {column: unquote(value) for column, _, value in parts}
        return said | {PATH: f"s3://{self._bucket}/{self.prefix}{file}"}


@dataclass(frozen=True)
class _Linked:
    """A table's files below a folder."""

    folder: Path
    files: list[Path]


def _run(asked: Asked, statement: exp.Expr, sources: list[_Source], folder: Path) -> Answered:
    folder.mkdir(parents=True)
    linked = [(source, source.link(folder)) for source in sources]
    scanned_bytes = sum(file.stat().st_size for _, found in linked for file in found.files)
    if asked.most_bytes is not None and scanned_bytes > asked.most_bytes:
        raise QueryCancelled(OVER)
    with_path = any(column.name == PATH for column in statement.find_all(exp.Column))
    with duckdb.connect(":memory:") as connection, _watched(asked, connection):
        for setting in (
            f"SET allowed_directories = [{_literal(str(folder))}]",
            "SET enable_external_access = false",
            "SET TimeZone = 'UTC'",
            "SET integer_division = true",
            "SET threads = 2",
            "SET memory_limit = '1GB'",
            "SET default_null_order = 'nulls_last'",
        ):
            connection.execute(setting)
        for macro in MACROS:
            connection.execute(macro)
        for schema in sorted({asked.database, *(source.database for source in sources)}):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
        for source, files in linked:
            source.define(connection, files, with_path=with_path)
        connection.execute(f"USE {_quoted(asked.database)}")
        connection.execute("SET lock_configuration = true")
        return _answer(asked, connection, statement.sql(dialect="duckdb"), scanned_bytes, folder)


def _answer(
    asked: Asked, connection: duckdb.DuckDBPyConnection, sql: str, scanned_bytes: int, folder: Path
) -> Answered:
    try:
        relation = connection.sql(sql)
        kinds = [str(kind) for kind in relation.types]
        if asked.parquet:
            file = folder / "unloaded.parquet"
            relation.write_parquet(str(file))
            return Answered([], [], [], scanned_bytes, file.read_bytes())
        # As text, as the API gives it; and MiniStack saves its executions as JSON.
        texts, answer_bytes = [], 0
        for row in _rows(connection, relation, sql):
            texts.append([as_athena(value) for value in row])
            answer_bytes += sum(len(text) for text in texts[-1] if text is not None) + ROW_BYTES
            if answer_bytes > MAX_ANSWER_BYTES:
                raise QueryFailed(f"the local Athena keeps {MAX_ANSWER_BYTES >> 20} MB of a result, and this has more")
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise QueryFailed(in_athenas_words(f"{type(error).__name__}: {error}", asked.query)) from error
    types = [athena_type(kind) for kind in kinds]
    return Answered(relation.columns, types, texts, scanned_bytes, answer_bytes=answer_bytes)


def _rows(
    connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, sql: str
) -> Iterator[Sequence[Any]]:
    if any("TIME ZONE" in str(kind) for kind in relation.types):  # fetchmany would need pytz for these
        for batch in relation.to_arrow_table().to_batches(FETCHED_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return
    connection.execute(sql)
    while rows := connection.fetchmany(FETCHED_ROWS):
        yield from rows


@contextmanager
def _watched(asked: Asked, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Have what runs on the connection end when the query is stopped or takes too long.

    After it nobody touches the connection any more: the watcher has ended, so it can be closed.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(asked, connection, done), name=WATCHER, daemon=True)
    watcher.start()
    try:
        yield
    except duckdb.InterruptException as error:
        if asked.stopped.is_set():
            raise QueryCancelled(STOPPED) from error
        raise QueryFailed(f"Query timeout: it ran for more than {QUERY_SECONDS:.0f} s") from error
    finally:
        done.set()
        watcher.join()


def _watch(asked: Asked, connection: duckdb.DuckDBPyConnection, done: threading.Event) -> None:
    """Interrupt the query when it is stopped or takes too long; again and again, for one can come too soon."""
    until = time.monotonic() + QUERY_SECONDS
    while not done.wait(WATCH_SECONDS):
        if asked.stopped.is_set() or time.monotonic() > until:
            connection.interrupt()


def _duckdb_type(kind: str) -> str:
    plain = kind.lower().partition("(")[0].strip()
    if plain == "decimal":
        return kind.upper()
    try:
        return DUCKDB_TYPES[plain]
    except KeyError:
        raise QueryFailed(f"the local Athena knows no columns of type {kind}") from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
