from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from chalicelib.access.access import ApiKey, Project, Scope
from chalicelib.access.access_table import digest_of
from chalicelib.access.authorize import CACHE_SECONDS, MAX_CACHED, Authorizer
from chalicelib.access.quotas import UNLIMITED, Allowance, Limits
from chalicelib.base.errors import Forbidden, Unauthenticated
from chalicelib.events.events import Mode
from tests.stores import Stores, empty_stores

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ApiKey("demo", digest_of("k-write"), (Scope.WRITE,), "", MADE_AT)
HEADERS = {"x-api-key": "k-write"}


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        found.access.put_project(Project("demo", Mode.WARN), UNLIMITED, MADE_AT)
        found.access.put_key(KEY)
        yield found


def test_a_key_stands_for_its_project(stores: Stores) -> None:
    authorizer = Authorizer(stores.access, lambda: 0)

    assert authorizer.project({"x-api-key": "k-write"}, Scope.WRITE) == Project("demo", Mode.WARN)


def test_without_a_key_or_with_a_wrong_one_nobody_is_let_in(stores: Stores) -> None:
    authorizer = Authorizer(stores.access, lambda: 0)

    with pytest.raises(Unauthenticated, match="no API key"):
        authorizer.project({}, Scope.WRITE)
    with pytest.raises(Unauthenticated, match="is unknown"):
        authorizer.project({"x-api-key": "k-writ"}, Scope.WRITE)


def test_a_key_without_the_scope_is_refused_by_name(stores: Stores) -> None:
    with pytest.raises(Forbidden, match=r"has the scopes \['write'\]; the request needs 'read'"):
        Authorizer(stores.access, lambda: 0).project({"x-api-key": "k-write"}, Scope.READ)


def test_a_revoked_key_stops_working_within_a_minute(stores: Stores) -> None:
    now = [1000.0]
    authorizer = Authorizer(stores.access, lambda: now[0])
    authorizer.project(HEADERS, Scope.WRITE)

    stores.access.revoke_key(KEY, MADE_AT)

    now[0] += CACHE_SECONDS - 0.001
    authorizer.project(HEADERS, Scope.WRITE)
    now[0] += 0.001
    with pytest.raises(Unauthenticated):
        authorizer.project(HEADERS, Scope.WRITE)


def test_a_key_in_use_is_looked_up_again_within_a_minute(stores: Stores) -> None:
    now = [1000.0]
    authorizer = Authorizer(stores.access, lambda: now[0])
    authorizer.project(HEADERS, Scope.WRITE)
    stores.access.revoke_key(KEY, MADE_AT)

    now[0] += CACHE_SECONDS / 2
    authorizer.project(HEADERS, Scope.WRITE)

    now[0] += CACHE_SECONDS / 2
    with pytest.raises(Unauthenticated):
        authorizer.project(HEADERS, Scope.WRITE)


def test_a_replaced_key_ends_to_the_second_though_its_item_is_still_there(stores: Stores) -> None:
    now = [1000.0]
    authorizer = Authorizer(stores.access, lambda: now[0])
    new = replace(KEY, digest=digest_of("k-new"))
    assert stores.access.replace_key(KEY, new, datetime.fromtimestamp(1030, UTC))

    authorizer.project(HEADERS, Scope.WRITE)
    now[0] = 1029.9
    authorizer.project(HEADERS, Scope.WRITE)
    now[0] = 1030.0
    with pytest.raises(Unauthenticated):
        authorizer.project(HEADERS, Scope.WRITE)

    assert authorizer.project({"x-api-key": "k-new"}, Scope.WRITE).id == "demo"


def test_a_key_that_was_cached_when_it_was_replaced_ends_a_minute_late_at_most(stores: Stores) -> None:
    now = [1000.0]
    authorizer = Authorizer(stores.access, lambda: now[0])
    authorizer.project(HEADERS, Scope.WRITE)

    stores.access.replace_key(KEY, replace(KEY, digest=digest_of("k-new")), datetime.fromtimestamp(1001, UTC))

    now[0] += CACHE_SECONDS
    with pytest.raises(Unauthenticated):
        authorizer.project(HEADERS, Scope.WRITE)


def test_a_clock_that_was_set_back_does_not_prolong_a_revoked_key(stores: Stores) -> None:
    now = [1000.0]
    authorizer = Authorizer(stores.access, lambda: now[0])
    authorizer.project(HEADERS, Scope.WRITE)
    stores.access.revoke_key(KEY, MADE_AT)

    now[0] -= 3600

    with pytest.raises(Unauthenticated):
        authorizer.project(HEADERS, Scope.WRITE)


def test_a_key_brings_its_limits_and_where_it_has_none_those_of_its_project(stores: Stores) -> None:
    stores.access.change_project("demo", None, {"rate_per_second": 5.0, "burst": 50, "monthly_quota": 1000})
    stores.access.put_key(replace(KEY, digest=digest_of("own"), limits=Limits(rate_per_second=7.5)))
    authorizer = Authorizer(stores.access, lambda: 0)

    allowance = authorizer.project({"x-api-key": "own"}, Scope.WRITE).allowance
    default = authorizer.project(HEADERS, Scope.WRITE).allowance

    assert allowance == Allowance(f"demo#{digest_of('own')[:8]}", Limits(7.5, None, 1000))
    assert default == Allowance(f"demo#{KEY.id}", Limits(5.0, 50, 1000))


def test_made_up_keys_do_not_fill_the_memory(stores: Stores) -> None:
    authorizer = Authorizer(stores.access, lambda: 0)
    authorizer.cache.update({str(i): (1.0, None) for i in range(MAX_CACHED)})  # type: ignore[misc]

    authorizer.project({"x-api-key": "k-write"}, Scope.WRITE)

    assert len(authorizer.cache) == 1


def test_what_comes_without_a_key_has_the_project_that_the_stage_names_or_none(stores: Stores) -> None:
    authorizer = Authorizer(stores.access, lambda: 0)

    assert authorizer.project_of_bus("demo") == Project("demo", Mode.WARN)
    for unknown in ("", "other"):
        with pytest.raises(Unauthenticated, match=f"BUS_PROJECT is '{unknown}'; it must name a project"):
            authorizer.project_of_bus(unknown)
