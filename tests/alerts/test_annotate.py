"""Annotations: one of each id, in the order of their time, and safe to show."""

from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib.alerts.annotate import Annotator
from chalicelib.alerts.annotations import read_range
from chalicelib.alerts.annotations_table import AnnotationsTable
from chalicelib.alerts.anomalies_table import AnomaliesTable
from chalicelib.base.errors import InvalidRequest
from chalicelib.base.time_windows import HOUR_MS, MINUTE_MS, iso_ms
from tests.stores import Stores, empty_stores

NINE_MS = 1_795_251_600_000
DEPLOY = {"id": "deploy-7", "title": "Version 7", "kind": "deploy", "url": "https://ci.example.com/7", "tags": ["web"]}


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


@pytest.fixture
def annotator(stores: Stores) -> Annotator:
    client = stores.connections.client
    return Annotator(AnnotationsTable(client, "control"), AnomaliesTable(client, "control"))


def titles(annotator: Annotator, **parameters: str) -> list[str]:
    return [found["title"] for found in annotator.show("shop", read_range(parameters))["annotations"]]


def test_an_annotation_is_answered_and_listed_as_it_was_sent(annotator: Annotator) -> None:
    made, as_sent = annotator.create("shop", DEPLOY, NINE_MS)

    expected = {**DEPLOY, "at": "2026-11-21T09:00:00.000Z", "dimension": None, "value": None}
    assert (made, as_sent) == (expected, True)
    assert annotator.show("shop", read_range({})) == {"annotations": [expected], "next": None}
    assert annotator.show("blog", read_range({}))["annotations"] == []


def test_the_same_id_again_changes_nothing_and_answers_the_first(annotator: Annotator) -> None:
    first, _ = annotator.create("shop", DEPLOY, NINE_MS)

    again = annotator.create("shop", DEPLOY, NINE_MS + 1)
    other = annotator.create("shop", {**DEPLOY, "title": "Another"}, NINE_MS)

    assert again == other == (first, False)
    assert titles(annotator) == ["Version 7"]


def test_one_that_died_half_way_is_finished_by_the_next(
    annotator: Annotator, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, calls = stores.connections.client, []

    class Dying:
        exceptions = client.exceptions

        def put_item(self, **arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError("killed")
            return client.put_item(**arguments)

    with pytest.raises(OSError, match="killed"):
        AnnotationsTable(Dying(), "control").put(_annotation(annotator))
    assert titles(annotator) == []

    annotator.create("shop", DEPLOY, NINE_MS + HOUR_MS)

    assert [found["at"] for found in annotator.between("shop", 0, NINE_MS * 2)] == [iso_ms(NINE_MS)]


def _annotation(_annotator: Annotator) -> Any:
    from chalicelib.alerts.annotations import read_annotation

    return read_annotation(DEPLOY, "shop", NINE_MS)


def test_without_an_id_the_same_words_at_the_same_time_are_one(annotator: Annotator) -> None:
    for _ in range(2):
        annotator.create("shop", {"title": "Sale", "at": "2026-11-21T08:00:00Z"}, NINE_MS)
        annotator.create("shop", {"title": "Now"}, NINE_MS)
    annotator.create("shop", {"title": "Sale", "at": "2026-11-22T08:00:00Z"}, NINE_MS)

    assert titles(annotator) == ["Sale", "Now", "Sale"]


def test_they_are_listed_in_pages_the_latest_first_and_beside_a_series_in_order(annotator: Annotator) -> None:
    for n in range(7):
        annotator.create("shop", {"id": f"a{n}", "title": str(n), "at": iso_ms(NINE_MS + n * MINUTE_MS)}, NINE_MS)
    first = annotator.show("shop", read_range({"limit": "4"}))

    assert [a["title"] for a in first["annotations"]] == ["6", "5", "4", "3"]
    assert titles(annotator, before=first["next"]) == ["2", "1", "0"]
    assert titles(annotator, start=iso_ms(NINE_MS + MINUTE_MS), end=iso_ms(NINE_MS + 3 * MINUTE_MS)) == ["2", "1"]
    beside = annotator.between("shop", NINE_MS + 5 * MINUTE_MS, NINE_MS + HOUR_MS)
    assert [a["title"] for a in beside] == ["5", "6"]
    assert titles(annotator, before="2020") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * 201}, "title.*200"),
        ({"kind": "party"}, "kind.*deploy, campaign, incident, note"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"at": "yesterday"}, "at: neither a date"),
        ({"dimension": "country"}, "value: dimension and value must be given together"),
        ({"tags": "web"}, "tags"),
        ({"colour": "red"}, "colour: Unknown field"),
    ],
)
def test_what_cannot_be_shown_is_refused(annotator: Annotator, words: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        annotator.create("shop", {"title": "x", **words}, NINE_MS)


@pytest.mark.parametrize(
    "parameters",
    [{"start": "2026-11-22", "end": "2026-11-20"}, {"limit": "0"}, {"limit": "501"}, {"end": "soon"}, {"x": "1"}],
)
def test_a_list_that_cannot_be_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        read_range(parameters)
