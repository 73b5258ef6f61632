"""`ops erasures` and `ops export` on a bucket and tables in memory."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import hour_of
from chalicelib.events.erasure import Arrivals
from chalicelib.events.identity import Link, Said
from chalicelib.lake.lake import Lake, Row
from infra.project import OperatorError
from ops.__main__ import main
from tests.stores import Stores

NOW_MS = int(time.time() * 1000)


@pytest.fixture(autouse=True)
def an_hour(stores: Stores) -> None:
    """An event of each of two users."""
    rows = [
        Row({"event_id": f"e{n}", "event_type": "click", "occurred_at": NOW_MS, "user_id": user}, NOW_MS)
        for n, user in enumerate(("ada", "bob"))
    ]
    Lake(stores.bucket).write(hour_folder("shop", hour_of(NOW_MS)) + "tail-import-1.parquet", rows)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--stage", "prod", "--json", "--project", "shop"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_erasure_is_requested_once_and_listed(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(capsys, "erasures", "request", "--user", "ada", "--yes")
    again = printed(capsys, "erasures", "request", "--user", "ada", "--yes")

    assert first == again
    assert printed(capsys, "erasures", "list") == [first]
    assert (first["state"], first["user_id"]) == ("requested", "ada")


def test_an_earlier_id_and_an_unknown_project_are_refused(stores: Stores) -> None:
    stores.users.learn("shop", Said({}, {Link("visitor", "ada")}))

    with pytest.raises(OperatorError, match="'visitor' is an earlier id of 'ada'"):
        main(["erasures", "request", "--stage", "prod", "--project", "shop", "--user", "visitor", "--yes"])
    with pytest.raises(OperatorError, match="there is no project 'shoe'"):
        main(["erasures", "request", "--stage", "prod", "--project", "shoe", "--user", "ada", "--yes"])
    with pytest.raises(OperatorError, match="there is no project 'shoe'"):
        main(["export", "user", "--stage", "prod", "--project", "shoe", "--user", "ada"])


def test_what_becomes_of_arrivals_is_a_setting_of_the_project(
    stores: Stores, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stores.access.arrivals("shop") is Arrivals.DROP

    assert printed(capsys, "projects", "set", "--erased-users", "accept")["erased_users"] == "accept"
    assert stores.access.arrivals("shop") is Arrivals.ACCEPT


def test_a_user_is_exported_to_the_terminal_or_a_file(
    stores: Stores, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = printed(capsys, "export", "user", "--user", "ada")
    told = printed(capsys, "export", "user", "--user", "ada", "--into", str(tmp_path / "ada.json"))

    assert [event["event_id"] for event in found["events"]] == ["e0"]
    assert json.loads((tmp_path / "ada.json").read_text()) == found
    assert told["events"] == 1


def test_a_project_is_exported_as_a_whole_or_in_part(
    stores: Stores, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = printed(capsys, "export", "project", "--into", str(tmp_path / "all"))
    none = printed(capsys, "export", "project", "--into", str(tmp_path), "--from", "2001-01-01", "--to", "2001-01-02")

    assert (whole["hours"], whole["events"], none["events"]) == (1, 2, 0)
    assert len(list((tmp_path / "all" / "project=shop").rglob("*.parquet"))) == 1
