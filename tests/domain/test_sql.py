import pytest

from chalicelib.domain.errors import InvalidRequest
from chalicelib.domain.snapshots import MAX_NAMED_HOURS, Open, Snapshot
from chalicelib.domain.sql import confine

NOW = 1_795_251_600_000
SETTLED = Snapshot(NOW)
SNAPSHOTS = [
    SETTLED,
    Snapshot(NOW, [Open("2026-11-21T10"), Open("2026-11-21T09", "1795251600000-ab", "tail-o'clock.parquet")]),
    Snapshot(NOW, [Open(f"2026-11-{n // 24 + 1:02}T{n % 24:02}") for n in range(MAX_NAMED_HOURS + 1)]),
]
CONFINED = [
    "SELECT count(*) FROM events",
    'SELECT * FROM "events" e JOIN EVENTS f ON e.event_id = f.event_id',
    "WITH a AS (SELECT event_id FROM events) SELECT * FROM a UNION ALL SELECT event_id FROM events",
    "WITH events AS (SELECT * FROM events) SELECT * FROM events",
    "SELECT * FROM events WHERE user_id IN (SELECT user_id FROM events LIMIT 3)",
    "SELECT (SELECT max(occurred_at) FROM events) FROM events CROSS JOIN UNNEST(ARRAY[1]) AS t(x)",
]
REFUSED = [
    "WITH a AS (SELECT * FROM secrets), secrets AS (SELECT 1) SELECT * FROM a",
    "SELECT * FROM read_parquet('x')",
    "SELECT * FROM 's3://bucket/lake/*.parquet'",
    "SELECT (SELECT max(occurred_at) FROM other.events)",
    'SELECT * FROM "tidemark_dev"."events"',
    "SELECT * FROM awsdatacatalog.tidemark_dev.events",
    "SELECT 1; SELECT 2",
    "DROP TABLE events",
    "INSERT INTO events SELECT 1",
    "SELECT * FROM LATERAL (SELECT * FROM secrets) x",
    "WITH t AS (SELECT 1 AS x) SELECT * FROM t WHERE x IN (SELECT x FROM t, secrets)",
    "TABLE secrets",
    "SELECT * FROM events PIVOT (count(*) FOR event_type IN ('a'))",
    "SELECT * FROM events FOR TIMESTAMP AS OF TIMESTAMP '2026-01-01 00:00:00 UTC'",
    "SHOW TABLES",
    "EXPLAIN SELECT 1",
    "",
    "SELECT FROM WHERE",
    "(" * 3000,
]


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
@pytest.mark.parametrize("sql", CONFINED)
def test_every_reference_to_events_is_confined_to_the_project(sql: str, snapshot: Snapshot) -> None:
    confined = confine(sql, project="demo", lake_table="tidemark_dev.events", snapshot=snapshot)

    assert confined.count("tidemark_dev.events") == confined.count("\"project\" = 'demo'") > 0


@pytest.mark.parametrize("sql", REFUSED)
def test_anything_else_is_refused(sql: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        confine(sql, project="demo", lake_table="tidemark_dev.events", snapshot=SETTLED)

    assert refusal.value.code == "invalid_sql"


def test_a_query_of_no_table_is_left_as_it_is() -> None:
    assert confine("SELECT 1", project="demo", lake_table="tidemark_dev.events", snapshot=SETTLED) == "SELECT 1"


def test_column_aliases_are_kept() -> None:
    assert "AS e(a, b)" in confine("SELECT a FROM events AS e(a, b)", project="demo", lake_table="t", snapshot=SETTLED)


def test_an_error_is_plain_text() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        confine("SELECT FROM WHERE (", project="demo", lake_table="t", snapshot=SETTLED)

    assert "\x1b" not in refusal.value.message
