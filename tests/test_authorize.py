from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from chalicelib.authorize import CACHE_SECONDS, MAX_CACHED, Authorizer
from chalicelib.domain.access import Project, Scope
from chalicelib.domain.errors import Forbidden, Unauthenticated
from chalicelib.domain.events import Mode
from tests.stores import Stores, empty_stores

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        found.control.put_project(Project("demo", Mode.WARN), MADE_AT)
        found.control.put_key("k-write", "demo", [Scope.WRITE], "", MADE_AT)
        yield found


def test_a_key_stands_for_its_project(stores: Stores) -> None:
    authorizer = Authorizer(stores.control, lambda: 0)

    assert authorizer.project({"x-api-key": "k-write"}, Scope.WRITE) == Project("demo", Mode.WARN)


def test_without_a_key_or_with_a_wrong_one_nobody_is_let_in(stores: Stores) -> None:
    authorizer = Authorizer(stores.control, lambda: 0)

    with pytest.raises(Unauthenticated, match="no API key"):
        authorizer.project({}, Scope.WRITE)
    with pytest.raises(Unauthenticated, match="not known"):
        authorizer.project({"x-api-key": "k-writ"}, Scope.WRITE)


def test_a_key_without_the_scope_is_refused_by_name(stores: Stores) -> None:
    with pytest.raises(Forbidden, match=r"has the scopes \['write'\]; this needs 'read'"):
        Authorizer(stores.control, lambda: 0).project({"x-api-key": "k-write"}, Scope.READ)


def test_a_revoked_key_stops_working_within_a_minute(stores: Stores) -> None:
    now = [0.0]
    authorizer = Authorizer(stores.control, lambda: now[0])
    authorizer.project({"x-api-key": "k-write"}, Scope.WRITE)
    key = {"pk": {"S": "key#" + sha256(b"k-write").hexdigest()}, "sk": {"S": "key"}}
    stores.events.client.delete_item(TableName="control", Key=key)

    now[0] = CACHE_SECONDS

    with pytest.raises(Unauthenticated):
        authorizer.project({"x-api-key": "k-write"}, Scope.WRITE)


def test_made_up_keys_do_not_fill_the_memory(stores: Stores) -> None:
    authorizer = Authorizer(stores.control, lambda: 0)
    authorizer.cache.update({str(i): (1.0, None) for i in range(MAX_CACHED)})  # type: ignore[misc]

    authorizer.project({"x-api-key": "k-write"}, Scope.WRITE)

    assert len(authorizer.cache) == 1


def test_what_comes_without_a_key_has_the_project_that_the_stage_names_or_none(stores: Stores) -> None:
    authorizer = Authorizer(stores.control, lambda: 0)

    assert authorizer.project_of_bus("demo") == Project("demo", Mode.WARN)
    for unknown in ("", "other"):
        with pytest.raises(Unauthenticated, match=f"BUS_PROJECT is '{unknown}'; it must name a project"):
            authorizer.project_of_bus(unknown)
