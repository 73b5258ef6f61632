"""The saved queries and the data set of infra/analysts.yaml, run on the local Athena: one project's rows, each once."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml

from chalicelib.events.events import StoredEvent
from infra.project import ROOT
from tests.localcloud.analysts import Place
from tests.localcloud.services import Services

RESOURCES = cfn_yaml.load(str(ROOT / "infra" / "analysts.yaml"))["Resources"]
QUERIES = {
    name: resource["Properties"]["QueryString"]["Fn::Sub"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Athena::NamedQuery"
}
PHYSICAL = RESOURCES["DataSet"]["Properties"]["PhysicalTableMap"]["events"]["CustomSql"]
TYPES = {"varchar": "STRING", "timestamp": "DATETIME", "double": "DECIMAL"}


@pytest.fixture(scope="module")
def place(services: Services) -> Place:
    """A page and a purchase of now, the purchase twice in the lake, and the same of another project."""
    found = Place(services)
    at = int(datetime.now(UTC).timestamp() * 1000) - 60_000
    page = StoredEvent(
        event_id="1", event_type="page_view", user_id="u", occurred_at=at, properties={"path": "/a", "load_ms": 40}
    )
    bought = StoredEvent(
        event_id="2",
        event_type="purchase",
        user_id="u",
        occurred_at=at,
        properties={"total": 12.5},
        enrichment={"utm_campaign": "spring", "country": "DE"},
    )
    for project in ("shop", "other"):
        found.write(project, [page, bought])
        found.write(project, [bought])
    return found


def ask(place: Place, text: str) -> Any:
    """Columns and rows, by Athena itself: these queries do not go through the API."""
    sql = text.replace("${Project}", "shop").replace("tidemark_${Stage}", f'"{place.database}"')
    athena = place.query_runner.athena
    query_id = athena.start(sql)
    while (state := athena.state(query_id)).state in ("QUEUED", "RUNNING"):
        pass
    assert state.state == "SUCCEEDED", state.reason
    return athena.rows(query_id, 100)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("EventsByDay", [["page_view", 1, 1], ["purchase", 1, 1]]),
        ("RevenueByCampaign", [["spring", 1, 12.5]]),
        ("SlowestPaths", [["/a", 1, 40.0]]),
        ("EventsOfLateArrival", [["1: within a minute", 2]]),
    ],
)
def test_a_saved_query_has_the_projects_events_each_once(place: Place, name: str, rows: list[list[Any]]) -> None:
    found = ask(place, QUERIES[name]).rows

    assert sorted(row[1:] if name == "EventsByDay" else row for row in found) == rows


def test_every_saved_query_is_run_here() -> None:
    assert set(QUERIES) == {"EventsByDay", "RevenueByCampaign", "SlowestPaths", "EventsOfLateArrival"}


def test_the_data_set_has_the_columns_that_quicksight_is_told_of(place: Place) -> None:
    found = ask(place, PHYSICAL["SqlQuery"]["Fn::Sub"])

    told = [(column["Name"], column["Type"]) for column in PHYSICAL["Columns"]]
    assert [(column["name"], TYPES[column["type"]]) for column in found.columns] == told
    assert sorted(row[0] for row in found.rows) == ["1", "2"]
