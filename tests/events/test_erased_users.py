"""The markers as a container knows them: read once, then once a minute what is new."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.base import waits
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import FOR_EVER_MS, Marker, digest_of_user
from tests.stores import Stores, empty_stores

NOW_MS = 1_795_226_700_000


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


class Counting:
    """A client that counts queries."""

    def __init__(self, client: Any) -> None:
        self.client, self.queries = client, 0

    def get_paginator(self, name: str) -> Any:
        self.queries += 1
        return self.client.get_paginator(name)


def of(user: str) -> list[dict[str, Any]]:
    return [{"user_id": user, "occurred_at": NOW_MS}]


def test_a_container_asks_once_a_minute_and_then_knows_what_was_put(stores: Stores) -> None:
    seconds = [0.0]
    client = Counting(stores.erased.client)
    known = ErasedUsers(client, "control", lambda: seconds[0])
    assert known.kept("demo", of("ada")) == of("ada")
    stores.erased.put("demo", Marker(digest_of_user("demo", "ada"), NOW_MS, FOR_EVER_MS))

    for seconds[0] in range(waits.MARKERS_FRESH_MS // 1000):
        assert known.kept("demo", of("ada")) == of("ada")
    seconds[0] = waits.MARKERS_FRESH_MS // 1000
    assert known.kept("demo", of("ada")) == []
    assert known.kept("demo", of("bob")) == of("bob")
    assert client.queries == 2


def test_a_marker_that_was_put_late_under_an_earlier_time_is_found(stores: Stores) -> None:
    seconds = [0.0]
    known = replace(stores.erased, clock=lambda: seconds[0], known={})
    stores.erased.put("demo", Marker(digest_of_user("demo", "ada"), NOW_MS, FOR_EVER_MS))
    assert known.kept("demo", of("ada")) == []
    stores.erased.put("demo", Marker(digest_of_user("demo", "bob"), NOW_MS - waits.MARKERS_OVERLAP_MS + 1, FOR_EVER_MS))

    seconds[0] = waits.MARKERS_FRESH_MS // 1000

    assert known.kept("demo", of("bob")) == []
    assert known.kept("demo", of("ada")) == []


def test_a_marker_holds_in_its_project_only_and_says_nothing_of_the_user(stores: Stores) -> None:
    stores.erased.put("demo", Marker(digest_of_user("demo", "ada"), NOW_MS, FOR_EVER_MS))

    assert stores.erased.kept("other", of("ada")) == of("ada")
    assert "ada" not in str(stores.items("control"))
