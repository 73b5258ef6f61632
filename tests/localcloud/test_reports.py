"""Each report against a plain reading of the same events in Python, on generated traffic with ties, gaps and bots."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import mean
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from chalicelib.base.errors import InvalidRequest
from chalicelib.events.events import StoredEvent, moment_of, user_of
from chalicelib.events.sessions import session_ids
from chalicelib.sql.reports import REPORTS
from tests.localcloud.analysts import Place
from tests.localcloud.services import Services

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = int(datetime(2026, 10, 20, tzinfo=UTC).timestamp() * 1000)  # with the end of Berlin's summer time in it
DAYS = 14
TYPES = ("page_view", "add_to_cart", "purchase", "order:paid")
PATHS = ("/", "/a", "/b", "it's")
BERLIN = ZoneInfo("Europe/Berlin")
RANGE = {"start": "2026-10-22", "end": "2026-10-30", "timezone": "Europe/Berlin"}
SINCE, UNTIL = (
    int(datetime(2026, 10, day, tzinfo=BERLIN).timestamp() * 1000)
    for day in (22, 31)  # the end's day is included
)


def traffic(seed: int) -> list[StoredEvent]:
    """Visits of some events each; the rest as irregular as clients are."""
    chance = random.Random(seed)
    events: list[StoredEvent] = []
    for user in range(14):
        for visit in range(chance.randint(1, 9)):
            at = START + chance.randrange(DAYS * DAY // MINUTE) * MINUTE
            session = chance.choice((None, None, f"session-{user}-{chance.randint(0, 3)}"))
            for step in range(chance.randint(1, 7)):
                at += chance.choice((0, 0, 1, 500, 20_000, 4 * MINUTE, 29 * MINUTE, 30 * MINUTE, 31 * MINUTE))
                event = StoredEvent(
                    event_id=f"{chance.randrange(10**6):06}-{user}-{visit}-{step}",
                    event_type=chance.choice(TYPES),
                    occurred_at=at,
                    properties={"path": chance.choice(PATHS), "total": chance.randint(1, 50)},
                )
                if chance.random() < 0.3:
                    del event["properties"]["path"]
                if chance.random() < 0.2:
                    event["timestamp"] = chance.choice(("a", "b"))
                if session:
                    event["session_id"] = session
                found: dict[str, Any] = {"country": chance.choice(("DE", "FR"))}
                if chance.random() < 0.05:
                    found["bot"] = True
                if chance.random() < 0.3:
                    found["path"] = "/enriched"
                event["enrichment"] = found
                if chance.random() < 0.95:
                    event["user_id" if user % 3 else "anonymous_id"] = f"u{user}"
                if chance.random() < 0.3:
                    event["anonymous_id"] = f"a{user}"
                events.append(event)
    return events


@dataclass
class Case:
    """A lake and what is in it, bots left out."""

    place: Place
    events: list[StoredEvent]

    def by_user(self) -> dict[str, list[StoredEvent]]:
        users: dict[str, list[StoredEvent]] = defaultdict(list)
        for event in self.events:
            if (user := user_of(event)) is not None:
                users[user].append(event)
        return users


@pytest.fixture(scope="module", params=[1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def case(services: Services, request: pytest.FixtureRequest) -> Case:
    place = Place(services)
    events = traffic(request.param)
    place.write("demo", events)
    place.write("other", traffic(99))
    return Case(place, [event for event in events if not event["enrichment"].get("bot")])


def value_of(event: StoredEvent, name: str) -> str | None:
    if name == "event_type":
        return str(event["event_type"])
    found = event["properties"].get(name, event["enrichment"].get(name))
    return None if found is None else str(found)


def local_day(ms: int) -> date:
    return datetime.fromtimestamp(ms / 1000, BERLIN).date()


def close(found: float | None, expected: float | None) -> bool:
    return found == expected or (found is not None and expected is not None and abs(found - expected) < 0.0015)


# Funnel


def attempt(event: StoredEvent, later: list[StoredEvent], steps: list[Any], window_ms: int) -> list[int]:
    """The times of the steps that an attempt beginning with the event reaches."""
    times = [event["occurred_at"]]
    for each in later:
        if len(times) < len(steps) and steps[len(times)](each):
            if each["occurred_at"] - times[0] > window_ms:
                break
            times.append(each["occurred_at"])
    return times


def funnel(case: Case, steps: list[Any], window_ms: int, group: str | None) -> dict[Any, list[list[int]]]:
    """The times of each user's best attempt, by group."""
    found: dict[Any, list[list[int]]] = defaultdict(list)
    for events in case.by_user().values():
        matching = [(next((n for n, step in enumerate(steps) if step(e)), None), e) for e in events]
        ordered = [
            e
            for _, e in sorted(
                ((n, e) for n, e in matching if n is not None and e["occurred_at"] >= SINCE),
                key=lambda pair: (pair[1]["occurred_at"], pair[0], pair[1]["event_id"]),
            )
        ]
        attempts = [
            (attempt(event, ordered[number + 1 :], steps, window_ms), event)
            for number, event in enumerate(ordered)
            if steps[0](event) and event["occurred_at"] < UNTIL
        ]
        if attempts:
            best, first = max(attempts, key=lambda pair: len(pair[0]))  # the first of the furthest
            found[value_of(first, group) if group else None].append(best)
    return found


def of_type(event_type: str) -> Any:
    return lambda event: event["event_type"] == event_type


@pytest.mark.parametrize(
    ("text", "steps", "window", "group"),
    [
        ("page_view,add_to_cart,purchase", [of_type(name) for name in TYPES[:3]], 7 * 24 * 60, None),
        ("page_view,add_to_cart,purchase", [of_type(name) for name in TYPES[:3]], 30, "country"),
        ("page_view,page_view,page_view,order:paid", [of_type(TYPES[n]) for n in (0, 0, 0, 3)], 600, "path"),
        (
            "page_view:path=it's,purchase:path=/enriched",
            [
                lambda e: e["event_type"] == "page_view" and value_of(e, "path") == "it's",
                lambda e: e["event_type"] == "purchase" and value_of(e, "path") == "/enriched",
            ],
            4 * 24 * 60,
            None,
        ),
    ],
)
def test_the_funnel(case: Case, text: str, steps: list[Any], window: int, group: str | None) -> None:
    more = {"group_by": group} if group else {}

    answer = case.place.report("funnel", steps=text, window_minutes=str(window), **RANGE, **more)

    expected = funnel(case, steps, window * MINUTE, group)
    assert expected
    check_steps(answer["steps"], [times for each in expected.values() for times in each])
    if group:
        assert Counter(each["key"] for each in answer["groups"]) == Counter(expected.keys())
        for each in answer["groups"]:
            check_steps(each["steps"], expected[each["key"]])


def check_steps(told: list[dict[str, Any]], attempts: list[list[int]]) -> None:
    for number, step in enumerate(told):
        reached = [times for times in attempts if len(times) > number]
        assert step["users"] == len(reached)
        if number:
            took = sorted((times[number] - times[number - 1]) / 1000 for times in reached)
            before = told[number - 1]["users"]
            assert close(step["mean_seconds"], mean(took) if took else None)
            assert close(step["conversion_from_previous"], len(reached) / before if before else None)
            if took:
                assert took[0] <= step["median_seconds"] <= took[-1]


# Retention


@pytest.mark.parametrize("interval", ["day", "week", "month"])
@pytest.mark.parametrize("mode", ["first_time", "recurring"])
@pytest.mark.parametrize(("joining", "returning"), [(None, None), ("page_view", "purchase")])
def test_retention(case: Case, interval: str, mode: str, joining: str | None, returning: str | None) -> None:
    chosen = {"event_type": joining, "returning": returning}
    more = {name: value for name, value in chosen.items() if value}

    answer = case.place.report("retention", interval=interval, mode=mode, **RANGE, **more)

    periods = list(periods_of(interval))
    joined, came = defaultdict(set), defaultdict(set)
    for user, events in case.by_user().items():
        for event in events:
            period = period_of(local_day(event["occurred_at"]), interval)
            if event["occurred_at"] < UNTIL:
                if joining in (None, event["event_type"]):
                    joined[user].add(period)
                if returning in (None, event["event_type"]):
                    came[user].add(period)
    if mode == "first_time":
        joined = defaultdict(set, {user: {min(found)} for user, found in joined.items() if found})
    cohorts = [[user for user in joined if period in joined[user]] for period in periods]
    assert any(cohorts)
    assert [cohort["start"] for cohort in answer["cohorts"]] == [period.isoformat() for period in periods]
    assert [cohort["users"] for cohort in answer["cohorts"]] == [len(cohort) for cohort in cohorts]
    for number, (told, users) in enumerate(zip(answer["cohorts"], cohorts, strict=True)):
        later = [sum(period in came[user] for user in users) for period in periods[number + 1 :]]
        assert [each["users"] for each in told["retained"]] == later


def period_of(day: date, interval: str) -> date:
    if interval == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval == "month" else day


def periods_of(interval: str) -> Iterator[date]:
    days = (date(2026, 10, 22) + timedelta(days=n) for n in range(9))
    yield from sorted({period_of(day, interval) for day in days})


# Sessions and paths


def sessions_of(case: Case) -> list[list[StoredEvent]]:
    """Those that began in the range, by the definition that users' timelines have."""
    groups: dict[object, list[StoredEvent]] = defaultdict(list)
    near = [e for e in case.events if SINCE - DAY <= e["occurred_at"] < UNTIL + DAY]
    made: dict[str, str] = {}
    for events in case.by_user().values():
        made |= session_ids(event for event in events if event in near)
    for event in sorted(near, key=moment_of):
        if session := event.get("session_id"):
            groups[(event.get("anonymous_id") or event.get("user_id"), session)].append(event)
        elif event["event_id"] in made:
            groups[made[event["event_id"]]].append(event)
    return [group for group in groups.values() if SINCE <= group[0]["occurred_at"] < UNTIL]


def numbers(sessions: list[list[StoredEvent]]) -> dict[str, Any]:
    lasted = [(session[-1]["occurred_at"] - session[0]["occurred_at"]) / 1000 for session in sessions]
    count = len(sessions)
    return {
        "sessions": count,
        "users": len({user_of(session[-1]) for session in sessions} - {None}),
        "events_per_session": mean(len(session) for session in sessions) if count else None,
        "mean_seconds": mean(lasted) if count else None,
        "bounce_rate": mean(bounced(session) for session in sessions) if count else None,
    }


@pytest.mark.parametrize("interval", ["hour", "day", "week"])
def test_sessions(case: Case, interval: str) -> None:
    answer = case.place.report("sessions", interval=interval, group_by="path", **RANGE)

    sessions = sessions_of(case)
    assert any(len(session) > 3 for session in sessions)
    by_start, by_path = defaultdict(list), defaultdict(list)
    for session in sessions:
        at = session[0]["occurred_at"]
        start = datetime.fromtimestamp(at // HOUR * HOUR / 1000, BERLIN)
        if interval != "hour":
            start = datetime.combine(period_of(local_day(at), interval), datetime.min.time(), BERLIN)
        by_start[start.isoformat()].append(session)
        by_path[value_of(session[0], "path")].append(session)
    assert same(answer["total"], numbers(sessions))
    assert all(same(told, numbers(by_start[told["start"]])) for told in answer["series"])
    assert sum(told["sessions"] for told in answer["series"]) == len(sessions)
    assert {told["key"] for told in answer["groups"]} == by_path.keys()
    assert all(same(told, numbers(by_path[told["key"]])) for told in answer["groups"])


def bounced(session: list[StoredEvent]) -> bool:
    return len(session) == 1 or sum(event["event_type"] == "page_view" for event in session) == 1


def same(told: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(close(told[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "asked",
    [
        {"by": "event_type", "depth": "3"},
        {"by": "path", "depth": "4", "event_type": "page_view"},
        {"by": "path", "depth": "2", "first": "it's"},
    ],
)
def test_paths(case: Case, asked: dict[str, str]) -> None:
    answer = case.place.report("paths", limit="1000", **asked, **RANGE)

    expected: Counter[tuple[str, ...]] = Counter()
    for session in sessions_of(case):
        nodes: list[str] = []
        for event in session:
            node = value_of(event, asked["by"])
            if node is None or asked.get("event_type") not in (None, event["event_type"]):
                continue
            if not nodes or nodes[-1] != node:
                nodes.append(node)
        if "first" in asked:
            nodes = nodes[nodes.index(asked["first"]) :] if asked["first"] in nodes else []
        if nodes:
            expected[tuple(nodes[: int(asked["depth"])])] += 1
    assert expected
    assert {tuple(told["steps"]): told["sessions"] for told in answer["paths"]} == expected
    assert answer["sessions"] == expected.total()


# Top


@pytest.mark.parametrize(
    "asked",
    [{"of": "path"}, {"of": "event_type", "agg": "users"}, {"of": "country", "agg": "sum", "measure": "total"}],
)
def test_top(case: Case, asked: dict[str, str]) -> None:
    answer = case.place.report("top", limit="3", filter="country:DE", **asked, **RANGE)

    sums: dict[str, int] = Counter()
    users: dict[str, set[str | None]] = defaultdict(set)
    for event in case.events:
        value = value_of(event, asked["of"])
        if SINCE <= event["occurred_at"] < UNTIL and value is not None and value_of(event, "country") == "DE":
            sums[value] += event["properties"]["total"] if "measure" in asked else 1
            users[value] |= {user_of(event)} - {None}
    expected = {value: len(found) for value, found in users.items()} if asked.get("agg") == "users" else sums
    ranked = sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    assert [(told["value"], told["number"]) for told in answer["values"]] == ranked
    total = len({user for found in users.values() for user in found})
    assert answer["total"] == (total if asked.get("agg") == "users" else sum(sums.values()))


# What may be asked


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("funnel", {}, "steps: Missing data for required field."),
        ("funnel", {"steps": "a"}, "steps: 1 steps; the limit is 2 to 8 steps (it is 'a')"),
        ("funnel", {"steps": "a,"}, "steps: write page_view,add_to_cart,purchase; a step may ask"),
        ("funnel", {"steps": "a:b-c=d,e"}, "steps: write page_view"),
        ("funnel", {"steps": "a,b", "window_minutes": "0"}, "window_minutes: Must be greater than or equal to 1"),
        ("funnel", {"steps": "a,b", "group_by": "x') OR 1=1 --"}, "group_by: a property's name has letters, digits"),
        ("retention", {"interval": "hour"}, "interval: Must be one of: day, week, month. (it is 'hour')"),
        ("retention", {"start": "2025-01-01"}, "interval: the range has 668 periods; the limit is 100"),
        ("retention", {"mode": "x"}, "mode: Must be one of: first_time, recurring. (it is 'x')"),
        ("sessions", {"interval": "hour", "start": "2026-01-01"}, "interval: the range has 7272 buckets; the limit is"),
        ("sessions", {"timezone": "Mars"}, "timezone: not an IANA time zone such as Europe/Berlin (it is 'Mars')"),
        ("top", {}, "of: Missing data for required field."),
        ("top", {"of": "path", "agg": "sum"}, "measure: measure is required with agg=sum, and not allowed otherwise"),
        ("top", {"of": "path", "limit": "1001"}, "limit: Must be greater than or equal to 1 and less than or equal"),
        ("top", {"of": "path", "filter": "a b:c"}, "filter: a property's name has letters, digits"),
        ("top", {"of": "path", "start": "2026-11-01"}, "end: it is not after start '2026-11-01'"),
        ("paths", {"depth": "11"}, "depth: Must be greater than or equal to 2 and less than or equal to 10"),
        ("paths", {"more": "1"}, "more: Unknown field. (it is '1'); known are"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named_with_its_value_and_what_does(
    name: str, asked: dict[str, str], told: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        REPORTS[name].read({"start": "2026-10-22", "end": "2026-10-30", **asked})

    assert refused.value.code == "invalid_parameter"
    assert refused.value.message.startswith(told)


@pytest.mark.parametrize("name", ["funnel", "retention", "sessions", "top", "paths"])
def test_a_report_of_nothing_is_empty(services: Services, name: str) -> None:
    needed = {"funnel": {"steps": "a,b", "group_by": "path"}, "top": {"of": "path"}}.get(name, {})

    answer = Place(services).report(name, **RANGE, **needed)

    assert answer["report"] == name
    assert answer["state"] == "SUCCEEDED"
