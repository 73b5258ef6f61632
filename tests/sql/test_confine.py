from typing import Any

import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from chalicelib.base.errors import InvalidRequest
from chalicelib.lake.visible_files import MAX_NAMED_HOURS, UnsettledHour, VisibleFiles
from chalicelib.sql.allowed import FUNCTIONS
from chalicelib.sql.confine import MAX_ROWS, confine, read
from chalicelib.sql.positions import as_written
from chalicelib.sql.query_requests import Value

NOW = 1_795_251_600_000
SETTLED = VisibleFiles(NOW)
OPEN = UnsettledHour("2026-11-21T10")
VERSIONED = UnsettledHour("2026-11-21T10", "1795251600000-ab", ())
VISIBLE = [
    SETTLED,
    VisibleFiles(
        NOW,
        [UnsettledHour("2026-11-21T10"), UnsettledHour("2026-11-21T09", "1795251600000-ab", ["tail-o'clock.parquet"])],
    ),
    VisibleFiles(
        NOW,
        [UnsettledHour("2026-11-21T10", "1795251600000-ab", ()), UnsettledHour("2026-11-21T09", "1795251600000-a'b")],
    ),
    VisibleFiles(NOW, [UnsettledHour(f"2026-11-{n // 24 + 1:02}T{n % 24:02}") for n in range(MAX_NAMED_HOURS + 1)]),
]
CONFINED = [
    "SELECT count(*) FROM events",
    'SELECT * FROM "events" e JOIN EVENTS f ON e.event_id = f.event_id',
    "WITH a AS (SELECT event_id FROM events) SELECT * FROM a UNION ALL SELECT event_id FROM events",
    "WITH events AS (SELECT * FROM events) SELECT * FROM events",
    "SELECT * FROM events WHERE user_id IN (SELECT user_id FROM events LIMIT 3)",
    "SELECT (SELECT max(occurred_at) FROM events) FROM events CROSS JOIN UNNEST(ARRAY[1]) AS t(x)",
]
LAKE = '"tidemark_dev"."events"'


def written(sql: str, **parameters: Value) -> str:
    """The part of what is sent that the analyst wrote."""
    sent = confine(read(sql), project="demo", lake_table="t", visible=SETTLED, parameters=parameters)
    return sent[sent.index(") SELECT") + 2 :] if sent.startswith("WITH") else sent


def refusal(sql: str, **parameters: Value) -> str:
    """Why a query is not sent."""
    with pytest.raises(InvalidRequest) as refused:
        written(sql, **parameters)
    return refused.value.message


@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("sql", CONFINED)
def test_the_lake_is_named_only_in_the_projects_own_rows(sql: str, visible: VisibleFiles) -> None:
    sent = confine(read(sql), project="demo", lake_table="tidemark_dev.events", visible=visible)

    tables = {table.sql("athena", identify=True).partition(" AS ")[0] for table in parsed(sent).find_all(exp.Table)}
    assert sent.count(LAKE) == sent.count("\"project\" = 'demo'") > 0
    assert LAKE not in sent[sent.index(") SELECT") :].partition(") SELECT")[2]
    assert {LAKE, '"$events"'} <= tables <= {LAKE, '"$events"', '"a"', '"events"'}


def parsed(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="athena")


def test_a_query_of_no_table_reads_no_lake() -> None:
    assert written("SELECT 1") == f"SELECT 1 LIMIT {MAX_ROWS}"


def test_column_aliases_are_kept() -> None:
    assert written("SELECT a FROM events AS e(a, b) LIMIT 5") == 'SELECT "a" FROM "$events" AS "e"("a", "b") LIMIT 5'


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("LIMIT 7", "LIMIT 7"),
        ("LIMIT 99999999", f"LIMIT {MAX_ROWS}"),
        ("LIMIT ALL", f"LIMIT {MAX_ROWS}"),
        ("FETCH FIRST 3 ROWS ONLY", "FETCH FIRST 3 ROWS ONLY"),
        ("FETCH FIRST 99999999 ROWS WITH TIES", f"LIMIT {MAX_ROWS}"),
        ("ORDER BY 1 OFFSET 2", f"ORDER BY 1 OFFSET 2 LIMIT {MAX_ROWS}"),
        ("UNION ALL SELECT 2 LIMIT 5000000", f"UNION ALL SELECT 2 LIMIT {MAX_ROWS}"),
    ],
)
def test_a_result_has_a_limit_whatever_the_query_says(limit: str, sent: str) -> None:
    assert written(f"SELECT 1 {limit}") == f"SELECT 1 {sent}"


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("it's -- /* x", "'it''s -- /* x'"),
        ("' OR 1=1 --", "''' OR 1=1 --'"),
        ("\\'", "'\\'''"),
        (-5, "-5"),
        (1.5, "1.5"),
        (True, "TRUE"),
        (None, "NULL"),
    ],
)
def test_a_parameter_is_a_value_whatever_it_says(value: Value, literal: str) -> None:
    assert written("SELECT :x LIMIT 1", x=value) == f"SELECT {literal} LIMIT 1"


def test_a_list_stands_in_in() -> None:
    sent = written("SELECT 1 WHERE 'a' IN (:x, :y) LIMIT :n", x=["a", "b'"], y="c", n=2)

    assert sent == "SELECT 1 WHERE 'a' IN ('a', 'b''', 'c') LIMIT 2"


@pytest.mark.parametrize(
    ("sql", "parameters", "told"),
    [
        ("SELECT :a", {}, "parameters.a: the query needs it; it has :a"),
        ("SELECT 1", {"a": 1}, "parameters.a: the query has no such parameter"),
        ("SELECT :a", {"a": [1]}, "parameters.a: a list stands in IN (:name) alone (it is list)"),
        ("SELECT 1 WHERE 1 IN (:a)", {"a": []}, "parameters.a: it has 0 values, and may have 1 to 1000 (it is list)"),
        ("SELECT :a", {"a": {"b": 1}}, "parameters.a: it must be text, a number, true, false, null or a list"),
        ("SELECT 1 LIMIT :a", {"a": "x"}, "LIMIT 'x': a limit is a whole number"),
        ("SELECT ?", {}, "? is not answered; give parameters names"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(sql: str, parameters: dict[str, Any], told: str) -> None:
    assert told in refusal(sql, **parameters)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT 1\n  FROM FROM events x y z", "line 2:"),
        ("SELECT read_csv('x')", "the function read_csv is not answered"),
        ("SELECT " + "date(" * 20 + "1" + ")" * 20, "line 1:42: brackets are nested too deep; the limit is 100, and 6"),
        ("SELECT " + "(" * 101, "line 1:108: brackets are nested too deep"),
        ("SELECT 1 FROM events" + ", events" * 200, "the query names 201 tables; the limit is 200"),
        ("SELECT 1" + ", 1" * 10_000, "words and signs; the limit is 20000"),
        ("SELECT '" + "x" * 70_000 + "'", "characters; the limit is 65536"),
    ],
)
def test_a_refusal_says_what_and_where(sql: str, told: str) -> None:
    assert told in refusal(sql)


def test_an_error_is_plain_text() -> None:
    assert "\x1b" not in refusal("SELECT FROM WHERE (")


def test_every_function_that_is_allowed_can_be_called() -> None:
    """Also where the parser has a name of its own for it."""
    for name in FUNCTIONS - {"and", "or", "case", "array", "unnest", "cast", "try_cast"}:
        for arguments in ("x", "x, y", "x, y, z", "", "'day', x, y", "DAY FROM x", "SELECT 1"):
            try:
                parsed(f"SELECT {name}({arguments})")
            except ParseError:
                continue
            assert written(f"SELECT {name}({arguments})")
            break
        else:
            raise AssertionError(f"{name} cannot be called")


def test_the_engines_position_is_that_of_the_word_that_the_analyst_wrote() -> None:
    text = "SELECT event_type, -- a comment\n  nothing\nFROM events WHERE x <> 1 AND project = 'dt'"
    sent = confine(read(text), project="demo", lake_table="t", visible=VisibleFiles(NOW, [OPEN]))

    def placed(word: str) -> str:
        return as_written(f"ERROR: line 1:{sent.rindex(word) + 1}: why", sent=sent, written=text)

    assert placed('"nothing"') == "ERROR: line 2:3: why"
    assert placed('"project"') == "ERROR: line 3:30: why"
    assert placed("<>") == "ERROR: line 3:21: why"
    assert placed('"received_at"') == "ERROR: why"  # it is not the analyst's
    assert as_written("no position", sent=sent, written=text) == "no position"
