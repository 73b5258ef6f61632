"""The documents say what is there, and only that."""

import re
import shlex
from pathlib import Path

import pytest

import app
from chalicelib.base import metrics
from chalicelib.events import events
from chalicelib.ingest import bodies
from chalicelib.quarantine import replay, selections
from chalicelib.sql import confine as sql
from chalicelib.sql import query, query_requests
from ops.__main__ import COMMANDS, parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    routes = {f"{method} {path}" for path, methods in app.app.routes.items() for method in methods}

    documented = set(re.findall(r"^\| `([A-Z]+ /[^`]*)`", text("docs/api.md"), re.MULTILINE))

    assert documented == routes


def test_the_documented_limits_are_those_in_force() -> None:
    limits = dict(re.findall(r"^\| ([^|]+) \| ([\d,]+)", text("docs/api.md"), re.MULTILINE))

    assert int(limits["body on the wire"]) * 2**20 == bodies.MAX_BODY_BYTES
    assert int(limits["body inflated"]) * 2**20 == bodies.MAX_INFLATED_BYTES
    assert int(limits["events in a batch"]) == events.MAX_EVENTS
    assert int(limits["one event"]) * 2**10 == events.MAX_EVENT_BYTES
    assert int(limits["JSON values of a body"].replace(",", "")) == bodies.MAX_BODY_VALUES
    assert int(limits["JSON values of one event"].replace(",", "")) == events.MAX_EVENT_VALUES
    assert int(limits["age"]) == events.MAX_AGE_DAYS


def test_the_documented_limits_of_queries_are_those_in_force() -> None:
    rows = text("docs/api.md").partition("| query |")[2]
    limits = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", f"| query |{rows}", re.MULTILINE))

    assert limits["query"] == f"{query_requests.MAX_SQL_LENGTH:,} characters"
    assert limits["tables named, nested brackets"] == f"{sql.MAX_TABLES}, {sql.MAX_DEPTH}"
    assert limits["rows of a result"] == f"{sql.MAX_ROWS:,}; of Parquet {query.MAX_PARQUET_ROWS:,}"
    assert limits["bytes of an answer"] == f"{query.MAX_ANSWER_BYTES // 2**20} MiB"
    assert limits["saved queries"] == f"{query.MAX_SAVED} a project"
    assert f"a list of up to {sql.MAX_LIST:,}" in text("docs/api.md")
    assert f"for {query.LINK_SECONDS // 60} minutes, for whoever has the link" in text("docs/api.md")


def test_the_corpus_of_hostile_statements_is_as_large_as_is_said() -> None:
    said = re.search(r"has (\d+) statements", text("docs/decisions/0026-queries.md"))

    assert said
    assert int(said[1]) == text("tests/corpus/sql/hostile.toml").count("[[statement]]")


def test_the_documented_bounds_of_the_quarantine_are_those_in_force() -> None:
    api = text("docs/api.md")

    assert f"100; at most {selections.MAX_PAGE} |" in api
    assert f"A page looks at {replay.MAX_FILES} requests at most" in api
    assert f"after {replay.MAX_FILES} requests or {replay.MAX_SECONDS:.0f} seconds" in api
    assert f"({replay.MAX_COUNTED:,}: or more)" in api


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))

    named = {
        target for document in DOCUMENTS for target in re.findall(r"\bmake ([a-z]+)\b(?=[ `\n])", document.read_text())
    }

    assert {"run", "test", "demo"} <= named
    assert named - {"of", "it", "a", "the"} <= targets


def test_every_ops_command_is_documented_as_it_is_called() -> None:
    lines = re.findall(r"^ *python -m (ops .*)$", text("docs/operations.md"), re.MULTILINE)
    examples = [
        line for module in COMMANDS.values() for line in re.findall(r"python -m (ops .*)", module.__doc__ or "")
    ]

    for line in [*lines, *examples]:
        parser().parse_args(shlex.split(line)[1:])  # ends the program where it does not know a word

    assert {line.split()[1] for line in lines} == COMMANDS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)", document.read_text())
    named = re.findall(
        r"`((?:docs|chalicelib|tests|infra|localcloud|schemas|dashboard)/[\w./-]*\w)`", document.read_text()
    )

    assert [name for name in linked if not (document.parent / name).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_names_every_folder() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}

    assert [folder for folder in folders if f"{folder}/" not in text("README.md")] == []


def test_every_metric_is_documented_as_the_code_explains_it() -> None:
    documented = dict(re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", text("docs/operations.md"), re.MULTILINE))

    assert documented == {name: meaning for name, (_, meaning) in metrics.METRICS.items()}
