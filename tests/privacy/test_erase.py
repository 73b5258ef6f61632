"""Erasure: afterwards no byte anywhere names the user, others are as they were, and what arrives late is dropped."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest

from chalicelib.base.errors import InvalidRequest
from chalicelib.base.object_keys import spill_key, unreadable_key
from chalicelib.base.time_windows import iso_ms
from chalicelib.events.chunks import from_spill, to_spill
from chalicelib.events.erasure import Arrivals
from chalicelib.events.events import Mode
from tests.mortal import Died, Mortal
from tests.privacy.erasing import TEN, World, world

# All that may lead to her: her ids, what she said of herself, and where she lives.
HERS = ("ada-1815", "visitor-of-ada", "ada@lovelace.example", "12 St James's Square", "Countess")
THERE = "bob-1791"


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def an_event(name: str, minute: float = 1, user: str | None = HERS[0], **more: Any) -> dict[str, Any]:
    found = {"event_id": name, "event_type": "page_view", "timestamp": iso_ms(TEN + int(minute * 60_000))}
    return found | ({"user_id": user} if user else {}) | {"properties": {"path": "/"}} | more


def her_identify(name: str = "i1", minute: float = 2) -> dict[str, Any]:
    traits = {"email": HERS[2], "address": HERS[3], "title": HERS[4]}
    return an_event(name, minute, event_type="identify", anonymous_id=HERS[1], properties=traits)


def lived_in(place: World) -> None:
    """Ada and Bob were there: before, in this hour, rejected, imported, asked about, spilled and unreadable."""
    history = [
        an_event("h1", -60 * 24 * 90, properties={"path": "/", "email": HERS[2]}),
        an_event("h2", -60 * 24 * 90, THERE),
        {"event_id": "h3", "event_type": "", "user_id": HERS[0], "timestamp": "2026-01-01T00:00:00Z"},
    ]
    place.drop(b"\n".join(map(orjson.dumps, history)))
    place.receive(an_event("a0", 0, None, anonymous_id=HERS[1]), an_event("b0", 0, THERE))
    place.receive(her_identify(), an_event("b1", 2, THERE), an_event("a1", -100))
    place.receive(
        *(an_event(f"q{n}", 3, who, event_type="unheard_of") for n, who in enumerate((HERS[0], THERE))),
        mode=Mode.ENFORCE,
    )
    place.receive(an_event("x1", 3, event_type="", properties={"email": HERS[2]}), an_event("b2", 3, THERE))
    place.flow()
    place.ask_sql("query-1", f"SELECT * FROM events WHERE user_id = '{HERS[0]}'")
    place.receive(an_event("d1", 4))
    [text] = place.stores.messages()  # that no table took
    place.stores.bucket.put(unreadable_key("m1"), text.encode())
    place.receive(an_event("s1", 4), an_event("b3", 4, THERE))
    spilled = to_spill(from_spill(b" " + place.stores.messages()[0].encode()))
    place.stores.bucket.put(spill_key("demo", spilled), spilled)


def others(place: World) -> Any:
    """What there is of Bob, by ids of rows in the lake, timeline and numbers."""
    rows = [
        row.event["event_id"]
        for day in place.lake.days("demo")
        for hour in range(24)
        for row in place.lake.rows(_keys(place, f"{day}T{hour:02d}"))
        if row.event.get("user_id") == THERE
    ]
    timeline = place.profiler.timeline("demo", THERE, 100, None)["events"]
    return sorted(rows), sorted(event["event_id"] for event in timeline)


def _keys(place: World, hour: str) -> list[str]:
    return place.stores.folders.keys(place.hours, "demo", hour)[1]


def test_afterwards_no_byte_names_the_user_and_others_are_as_they_were(place: World) -> None:
    lived_in(place)
    assert {trace.split(" in ")[0] for trace in place.traces(*HERS)} == {*HERS}
    before = others(place)

    receipt = place.erase(HERS[0])
    place.flow()
    place.wait(90)

    assert place.traces(*HERS) == []
    rows, timeline = others(place)
    assert (sorted({*rows, "b3"}), sorted({*timeline, "b3"})) == (rows, timeline)
    assert {*before[0]} <= {*rows}
    assert receipt["user_id"] is None
    assert receipt["removed"] == {
        "hot_store": 4,
        "identity_links": 1,
        "imported_files": 1,
        "lake": 4,
        "quarantine": 3,
        "query_results": 1,
        "spill": 1,
        "unreadable": 1,
    }


def test_metrics_and_sql_agree_afterwards(place: World) -> None:
    lived_in(place)
    place.wait(120)
    assert place.total() == 7

    place.erase(HERS[0])
    place.flow()
    place.wait(120)

    rows = [e for day in place.lake.days("demo") for h in range(24) for e in place.ids(f"{day}T{h:02d}")]
    assert sorted(rows) == ["b0", "b1", "b2", "b3", "h2"]
    assert place.total() == 5
    assert place.total(agg="users") == 1


def test_late_arrivals_are_dropped_and_accounted_for(place: World) -> None:
    place.receive(an_event("a1"), an_event("b1", 1, THERE))
    place.flow()
    place.erase(HERS[0])

    place.receive(an_event("late", 3), an_event("now", 200), an_event("b2", 3, THERE))
    place.receive(her_identify("i2", 201))
    place.receive(an_event("bad", 3, event_type=""), her_identify("i2", 201))
    place.flow()
    place.drop(b"\n".join(map(orjson.dumps, [an_event("h1", -9999), an_event("h2", -9999, THERE)])))

    assert place.traces(*HERS) == ["ada-1815 in data raw/demo/a.ndjson"]  # whoever dropped it there may remove it
    assert place.shown()[0]["reasons"] == {"erased_user": 1}
    ledger = place.stores.history.ledger("demo", "2026-11-21T13")
    for receipts in place.stores.ledger.receipts("demo", "2026-11-21T00", "2026-11-21T23").values():
        ledger.note(*receipts)
    assert ledger.balance()["erased"] == 4


def test_who_comes_back_is_somebody_new_where_the_project_says_so(place: World) -> None:
    place.arrivals = Arrivals.ACCEPT
    place.receive(an_event("a1"), her_identify())
    place.flow()
    place.erase(HERS[0])
    assert place.traces(*HERS) == []
    minute = (place.now_ms - TEN) // 60_000

    place.receive(an_event("before", 3), an_event("after", minute))
    place.flow()

    events = place.profiler.timeline("demo", HERS[0], 10, None)["events"]
    assert [event["event_id"] for event in events] == ["after"]


def test_a_device_that_others_use_too_is_not_theirs_to_erase(place: World) -> None:
    place.receive(her_identify(), an_event("x", 1, None, anonymous_id=HERS[1]))
    place.receive(an_event("i3", 5, THERE, event_type="identify", anonymous_id=HERS[1]))
    place.flow()

    place.erase(HERS[0])

    assert place.traces(HERS[0], *HERS[2:]) == []
    assert place.profiler.user("demo", HERS[1])["became"] == [THERE]
    place.erase(THERE)
    assert place.traces(*HERS, THERE) == []


def test_an_earlier_id_is_refused_with_the_later_one_named(place: World) -> None:
    place.receive(her_identify())
    place.flow()

    with pytest.raises(InvalidRequest, match="'visitor-of-ada' is an earlier id of 'ada-1815'; erase the later one"):
        place.profiler.request_erasure("demo", HERS[1], place.now_ms)


def test_asking_again_gives_the_same_erasure_as_long_as_it_goes_on(place: World) -> None:
    first = place.profiler.request_erasure("demo", HERS[0], place.now_ms)

    assert place.profiler.request_erasure("demo", HERS[0], place.now_ms + 1) == first
    assert place.profiler.request_erasure("demo", THERE, place.now_ms + 1)["id"] != first["id"]


def test_an_erasure_that_is_killed_at_every_write_goes_on_and_ends(place: World) -> None:
    lived_in(place)
    place.wait(70)
    before = others(place)
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    deaths = 0
    while place.receipt(receipt["id"])["state"] != "done":
        assert deaths < 200
        deaths += 1
        life: list[str] = []
        clients = place.stores.events.client, place.stores.bucket.client
        with suppress(Died):
            place.eraser(*(Mortal(each, deaths // 2 + 1, life=life) for each in clients)).run()
        assert {*others(place)[0]} >= {*before[0]}
        place.flow()
        place.wait(17)
    place.wait(90)

    assert place.traces(*HERS) == []
    assert {*others(place)[0]} == {*before[0], "b3"}


def test_an_earlier_id_that_turns_up_after_the_first_run_makes_no_other_one_forgotten(place: World) -> None:
    place.receive(an_event("a0", -200, None, anonymous_id=HERS[1]))  # in an hour that names her by this id alone
    place.receive(her_identify())
    place.flow()
    place.wait(70)  # the lake has it, and the hour is closed
    place.receive(an_event("i2", 71, event_type="identify", anonymous_id="phone-of-ada"))  # on its way meanwhile
    receipt = place.profiler.request_erasure("demo", HERS[0], place.now_ms)

    place.eraser().run()  # which takes away the link that tells of the first one
    place.flow()
    while place.receipt(receipt["id"])["state"] != "done":
        place.wait(5)
        place.eraser().run()
    place.wait(90)

    assert place.traces(*HERS, "phone-of-ada") == []


def test_two_projects_and_two_users_are_erased_apart(place: World) -> None:
    place.receive(an_event("a1"), an_event("b1", 1, THERE), an_event("c1", 1, "cleo-69"))
    place.flow()
    place.profiler.request_erasure("demo", HERS[0], place.now_ms)
    place.profiler.request_erasure("other", "cleo-69", place.now_ms + 1)

    place.erase(THERE)

    assert place.traces(HERS[0], THERE) == []
    assert [e for day in place.lake.days("demo") for h in range(24) for e in place.ids(f"{day}T{h:02d}")] == ["c1"]


def test_an_hour_with_nothing_else_in_it_counts_nothing(place: World) -> None:
    place.receive(an_event("a1", -3 * 60))
    place.flow()
    place.wait(30)
    assert place.total() == 1

    place.erase(HERS[0])

    assert place.total() == 0
    assert place.ask(interval="hour", start="2026-11-21", end="2026-11-22")["total"] == 0
