"""A stage for the operator's commands: tables and a bucket in memory, with one project."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from chalicelib.access.access import Project
from chalicelib.access.quotas import UNLIMITED
from chalicelib.events.events import Mode
from ops import stages
from tests.stores import Stores, empty_stores

ENVIRONMENT = {
    "EVENTS_TABLE": "events",
    "ROLLUPS_TABLE": "rollups",
    "CONTROL_TABLE": "control",
    "DATA_BUCKET": "data",
}


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    """Empty stores that every command takes for its stage's, and the project `shop`."""
    with empty_stores() as found:
        monkeypatch.setattr(stages, "client", lambda _stage, service, _url=None: found.client(service))
        monkeypatch.setattr(stages, "environment", lambda _stage: ENVIRONMENT)
        found.access.put_project(Project("shop", Mode.INFER), UNLIMITED, datetime.now(UTC))
        yield found
