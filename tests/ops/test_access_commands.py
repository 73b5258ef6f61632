"""`python -m ops projects` and `keys` on a stage's control table, as an operator calls them."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from chalicelib.access.access import Project, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.access.authorize import Authorizer
from chalicelib.access.quotas import Limits
from chalicelib.base.errors import Unauthenticated
from chalicelib.events.events import Mode
from infra.project import OperatorError
from ops import stages
from ops.__main__ import main
from tests.simulation.ports.client import Client
from tests.simulation.ports.dynamodb import DynamoDB
from tests.simulation.ports.tables import Table

TABLE = "tidemark-prod-control"
Ops = Callable[..., Any]


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Production's control table, empty."""
    made: Any = Client(DynamoDB(time.time, {TABLE: Table(TABLE, {})}))
    made.meta = SimpleNamespace(region_name="us-east-1")
    monkeypatch.setattr("boto3.client", lambda _service, config: made)
    stages.client.cache_clear()
    yield made
    stages.client.cache_clear()


@pytest.fixture
def ops(dynamodb: Any, capsys: pytest.CaptureFixture[str]) -> Ops:
    """Runs a command on production and returns what it prints as JSON."""

    def run(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "--stage", "prod", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def shop(ops: Ops) -> Ops:
    """The same, with a project."""
    ops("projects", "create", "--project", "shop", "--mode", "enforce")
    return ops


def opens(dynamodb: Any, key: str, *, at: float = 0) -> bool:
    """Whether a request with the key is let in."""
    try:
        Authorizer(AccessTable(dynamodb, TABLE), lambda: at).project({"x-api-key": key}, Scope.WRITE)
    except Unauthenticated:
        return False
    return True


def test_a_new_key_opens_its_project_and_is_kept_as_its_hash(shop: Ops, dynamodb: Any) -> None:
    made = shop("keys", "create", "--project", "shop", "--scopes", "write", "read", "--label", "the web shop")

    credential = AccessTable(dynamodb, TABLE).credential(made["key"], 0)
    assert credential is not None
    assert (credential.project.id, credential.project.mode) == ("shop", Mode.ENFORCE)
    assert len(credential.project.salt) == 32
    assert credential.scopes == {"write", "read"}
    assert made["key"] not in str(dynamodb.scan(TableName=TABLE)["Items"])


def test_a_list_shows_what_there_is_to_know_but_not_the_key(shop: Ops) -> None:
    made = shop("keys", "create", "--project", "shop", "--scopes", "read", "--label", "reports")

    (listed,) = shop("keys", "list", "--project", "shop")

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", listed.pop("created"))
    assert listed == {
        "id": made["id"],
        "label": "reports",
        "scopes": ["read"],
        "state": "active",
        "ends": None,
        "replaced_by": None,
        "rate": None,
        "burst": None,
        "monthly_quota": None,
        "used": None,
    }


def test_a_revoked_key_is_refused_and_stays_listed(shop: Ops, dynamodb: Any) -> None:
    made = shop("keys", "create", "--project", "shop", "--scopes", "write")

    shop("keys", "revoke", "--project", "shop", made["id"], "--yes")
    shop("keys", "revoke", "--project", "shop", made["id"], "--yes")

    assert not opens(dynamodb, made["key"])
    assert [key["state"] for key in shop("keys", "list", "--project", "shop")] == ["revoked"]


def test_a_rotated_key_works_until_its_grace_is_over_and_the_new_one_counts_on(shop: Ops, dynamodb: Any) -> None:
    limits = ("--rate", "5", "--monthly-quota", "1000")
    old = shop("keys", "create", "--project", "shop", "--scopes", "write", "--label", "web", *limits)

    new = shop("keys", "rotate", "--project", "shop", old["id"], "--grace", "1h", "--yes")

    listed = {key["id"]: key for key in shop("keys", "list", "--project", "shop")}
    assert (listed[old["id"]]["state"], listed[old["id"]]["replaced_by"]) == ("ending", new["id"])
    assert (listed[new["id"]]["state"], listed[new["id"]]["label"]) == ("active", "web")
    access = AccessTable(dynamodb, TABLE)
    before, after = access.credential(old["key"], 0), access.credential(new["key"], 0)
    assert before is not None
    assert after is not None
    assert before.project.allowance == after.project.allowance
    assert after.project.allowance is not None
    assert after.project.allowance.limits == Limits(5.0, None, 1000)
    assert opens(dynamodb, old["key"], at=before.ends_at - 1)
    assert not opens(dynamodb, old["key"], at=before.ends_at)
    assert opens(dynamodb, new["key"], at=before.ends_at)


def test_a_key_is_replaced_once(shop: Ops) -> None:
    old = shop("keys", "create", "--project", "shop", "--scopes", "write")
    new = shop("keys", "rotate", "--project", "shop", old["id"], "--yes")

    with pytest.raises(OperatorError, match=f"is ending already by {new['id']}; rotate that one"):
        shop("keys", "rotate", "--project", "shop", old["id"], "--yes")

    assert len(shop("keys", "list", "--project", "shop")) == 2


def test_of_two_operators_who_rotate_a_key_at_once_one_does(shop: Ops, dynamodb: Any) -> None:
    made, access = shop("keys", "create", "--project", "shop", "--scopes", "write"), AccessTable(dynamodb, TABLE)
    old = access.key("shop", made["id"])
    assert old is not None
    first, second = (replace(old, digest=digest_of(text)) for text in ("first", "second"))

    assert access.replace_key(old, first, datetime.fromtimestamp(2000, UTC))
    assert not access.replace_key(old, second, datetime.fromtimestamp(3000, UTC))

    assert not opens(dynamodb, "second")
    assert not opens(dynamodb, made["key"], at=2000)


def test_a_rotated_key_can_be_revoked_before_its_time(shop: Ops, dynamodb: Any) -> None:
    old = shop("keys", "create", "--project", "shop", "--scopes", "write")
    new = shop("keys", "rotate", "--project", "shop", old["id"], "--yes")

    shop("keys", "revoke", "--project", "shop", old["id"], "--yes")

    assert not opens(dynamodb, old["key"])
    states = {key["id"]: key["state"] for key in shop("keys", "list", "--project", "shop")}
    assert states == {old["id"]: "revoked", new["id"]: "active"}


def test_nothing_ends_without_a_yes(shop: Ops, dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shop("keys", "create", "--project", "shop", "--scopes", "write")

    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(OperatorError, match="Standard input is no terminal; confirm with --yes"):
        shop("keys", "revoke", "--project", "shop", made["id"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    with pytest.raises(OperatorError, match="nothing was changed"):
        shop("keys", "rotate", "--project", "shop", made["id"])

    assert opens(dynamodb, made["key"])


def test_a_project_is_made_once_and_changed_by_name(shop: Ops) -> None:
    with pytest.raises(OperatorError, match="shop exists already"):
        shop("projects", "create", "--project", "shop", "--mode", "infer")

    shop("projects", "set", "--project", "shop", "--rate", "20", "--burst", "600", "--monthly-quota", "5000")
    changed = shop("projects", "set", "--project", "shop", "--mode", "warn", "--rate", "none")

    created = changed.pop("created")
    assert changed == {
        "project": "shop",
        "mode": "warn",
        "erased_users": "drop",
        "rate": None,
        "burst": None,
        "monthly_quota": 5000,
    }
    assert shop("projects", "list") == [{**changed, "created": created}]


def test_the_projects_limits_show_in_the_list_of_its_keys_with_what_is_used(shop: Ops, dynamodb: Any) -> None:
    shop("projects", "set", "--project", "shop", "--monthly-quota", "5000")
    made = shop("keys", "create", "--project", "shop", "--scopes", "write")

    (listed,) = shop("keys", "list", "--project", "shop")

    assert (listed["monthly_quota"], listed["used"]) == (5000, 0)
    assert made["monthly_quota"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("keys", "create", "--project", "none", "--scopes", "read"), "there is no project 'none'"),
        (("keys", "revoke", "--project", "shop", "00000000", "--yes"), "'shop' has no key '00000000'"),
        (("projects", "create", "--project", "a b"), "letters, digits, - and _; this is 'a b'"),
        (("projects", "create", "--project", "new", "--burst", "7"), "a burst of 7 needs a rate too"),
        (("projects", "set", "--project", "shop"), "nothing to change was named"),
        (("projects", "set", "--project", "shop", "--burst", "7"), "a burst of 7 needs a rate too"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(shop: Ops, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(message)):
        shop(*words)


def test_a_stage_that_is_not_there_is_named(dynamodb: Any, ops: Ops) -> None:
    with pytest.raises(OperatorError, match="create it first: make stack STAGE=staging"):
        main(["projects", "list", "--stage", "staging"])


@pytest.mark.parametrize("words", [("--rate", "0"), ("--rate", "nan"), ("--burst", "1.5"), ("--monthly-quota", "none")])
def test_a_limit_is_a_number_of_events(ops: Ops, words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ops("projects", "create", "--project", "new", *words)

    assert f"'{words[1]}' is not a" in capsys.readouterr().err


def test_people_read_tables(shop: Ops, capsys: pytest.CaptureFixture[str]) -> None:
    shop("projects", "set", "--project", "shop", "--monthly-quota", "5000000")

    main(["projects", "list", "--stage", "prod"])
    heading, line = capsys.readouterr().out.splitlines()
    main(["keys", "list", "--stage", "prod", "--project", "shop"])

    assert heading.split() == ["project", "mode", "erased_users", "rate", "burst", "monthly_quota", "created"]
    assert line.split()[:6] == ["shop", "enforce", "drop", "-", "-", "5,000,000"]
    assert capsys.readouterr().out == "none\n"


def test_more_projects_than_one_read_takes_are_listed(dynamodb: Any, shop: Ops) -> None:
    access = AccessTable(dynamodb, TABLE)
    for number in range(120):
        access.put_project(Project(f"p{number:03}", Mode.WARN), Limits(), datetime.now(UTC))

    assert len(shop("projects", "list")) == 121
