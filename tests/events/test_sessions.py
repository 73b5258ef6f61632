from chalicelib.events.sessions import INACTIVITY_MS, session_ids


def event(event_id: str, at: int, session_id: str | None = None) -> dict[str, object]:
    return {"event_id": event_id, "occurred_at": at, **({"session_id": session_id} if session_id else {})}


def test_half_an_hour_without_events_ends_a_session_whatever_the_order() -> None:
    events = [
        event("c", 2 * INACTIVITY_MS),
        event("a", 0),
        event("b", INACTIVITY_MS - 1),
        event("d", 3 * INACTIVITY_MS),
    ]

    found = session_ids(events)

    assert found["a"] == found["b"]
    assert len({found["a"], found["c"], found["d"]}) == 3
    assert session_ids(reversed(events)) == found


def test_a_clients_own_session_stands() -> None:
    assert session_ids([event("a", 0, "mine")]) == {}
