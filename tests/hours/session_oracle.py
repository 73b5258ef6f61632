"""Visits of all kinds, and what DuckDB says of their sessions."""

import random
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa

from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, hour_of, parse_ms
from chalicelib.events.sessions import REACH_HOURS

FIRST = parse_ms("2026-11-20T21:00:00Z")

Event = dict[str, Any]

SESSIONS = f"""
CREATE TABLE sessions AS
WITH keyed AS (
  SELECT *, "at" // {HOUR_MS} AS hour, session IS NOT NULL AS own,
    CASE WHEN session IS NULL THEN coalesce("user", anonymous)
         ELSE concat_ws('|', 'client', coalesce(anonymous, "user", 'nobody'), session) END AS who
  FROM events WHERE NOT bot
), gaps AS (
  SELECT *, CASE WHEN own THEN hour - lag(hour) OVER w >= {REACH_HOURS}
                 ELSE "at" - lag("at") OVER w >= 1800000 END AS gap
  FROM keyed WHERE who IS NOT NULL WINDOW w AS (PARTITION BY who ORDER BY "at", id)
), numbered AS (
  SELECT *, count(*) FILTER (gap IS NULL OR gap) OVER (PARTITION BY who ORDER BY "at", id) AS number FROM gaps
), begun AS (
  SELECT *, min(hour) OVER (PARTITION BY who, number) AS began FROM numbered
), whole AS (
  SELECT last(coalesce("user", anonymous) ORDER BY "at", id) AS "user", min("at") AS "at",
    (max("at") - min("at")) / 1000 AS duration_seconds, count(*) AS events, count(*) FILTER (page) AS pages,
    first(name ORDER BY "at", id) FILTER (page) AS entry_page, last(name ORDER BY "at", id) FILTER (page) AS exit_page
  FROM begun WHERE hour - began < {REACH_HOURS} GROUP BY who, number
)
SELECT *, (pages = 1 OR events = 1)::INT AS bounced FROM whole
"""


def some_events(number: int, seed: int, hours: int) -> list[Event]:
    """Visits of a few minutes to many hours, by browsers that name their sessions and by those that do not."""
    rng = random.Random(seed)
    events: list[Event] = []
    ids = count()

    def add(at: int, **words: Any) -> None:
        kind = rng.choice(["page_view", "page_view", "click", "screen_view"])
        name = {"page_view": "path", "screen_view": "name"}.get(kind, "path")
        properties = {} if rng.random() < 0.1 else {name: f"/{rng.randrange(5)}"}
        bot = {"enrichment": {"bot": True}} if rng.random() < 0.03 else {}
        event = {"event_id": f"e{next(ids):05d}", "event_type": kind, "occurred_at": at, "properties": properties}
        events.append({**event, **bot, **{word: value for word, value in words.items() if value}})

    end = FIRST + hours * HOUR_MS
    while len(events) < number:
        person = rng.randrange(30)
        anonymous = rng.choice([None, f"a{person}"])
        user = f"u{person}" if anonymous is None or rng.random() < 0.5 else None
        session = rng.choice([None, None, f"s{rng.randrange(3)}"])
        if rng.random() < 0.05:
            user = anonymous = None
        at = FIRST + rng.randrange(hours * HOUR_MS)
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8, 30])):
            if at < end:
                add(at, user_id=user, anonymous_id=anonymous, session_id=session)
            at += rng.choice([0, 1000, 20 * MINUTE_MS, 30 * MINUTE_MS - 1, 30 * MINUTE_MS, 45 * MINUTE_MS])
    for minute in range(0, hours * 60, 25):  # somebody who never rests, and a client that keeps one id
        add(FIRST + minute * MINUTE_MS, user_id="restless")
        add(FIRST + minute * MINUTE_MS, user_id="restless", session_id="for ever")
    return events


def by_hour(events: list[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(hour_of(event["occurred_at"]), []).append(event)
    return found


def duckdb_of(events: list[Event]) -> duckdb.DuckDBPyConnection:
    """The events, and the sessions as SQL finds them."""
    rows = [
        {
            "id": event["event_id"],
            "at": event["occurred_at"],
            "user": event.get("user_id"),
            "anonymous": event.get("anonymous_id"),
            "session": event.get("session_id"),
            "bot": "enrichment" in event,
            "page": event["event_type"] in ("page_view", "screen_view"),
            "name": event["properties"].get("name" if event["event_type"] == "screen_view" else "path"),
        }
        for event in events
    ]
    connection = duckdb.connect()
    connection.register("events", pa.Table.from_pylist(rows))
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(SESSIONS)
    return connection
