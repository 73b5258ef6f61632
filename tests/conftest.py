"""Fixtures of all tests: `stack` is the whole product, as `make run` starts it; `services` its AWS."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.localcloud.running import KEY_CACHE_SECONDS, Stack, start_stack
from tests.localcloud.services import services

__all__ = ["services"]

# Files that take long, and so begin first, in this order: whoever ends last makes all the others wait. The first one
# only waits itself, for minutes of the clock.
LONG = (
    "end_to_end/test_watch.py",
    "simulation/test_simulation.py",
    "end_to_end/test_main_job.py",
    "localcloud/test_consolidation.py",
    "test_oracle.py",
    "test_importing.py",
    "sdks/test_lossy_network.py",
    "end_to_end/test_imports.py",
    "end_to_end/test_limits.py",
    "localcloud/test_supervisor.py",
)

# A timing is never a pass-or-fail test.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests, order = Path(__file__).parent, {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.relative_to(tests).as_posix(), len(LONG)))


def pytest_collection_finish() -> None:
    """What is there for all tests is no garbage, so no collection looks at it: a tenth of all time is spent on that."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def kinesis_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Another one, with Kinesis in place of SQS."""
    running = start_stack(tmp_path_factory.mktemp("state"), BUFFER="kinesis")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running local cloud with functions and REST on free ports and a state folder of its own."""
    pauses = {"rest": {"chalicelib.authorize.CACHE_SECONDS": KEY_CACHE_SECONDS}}
    running = start_stack(tmp_path_factory.mktemp("state"), LOCALCLOUD_PAUSES=json.dumps(pauses))
    try:
        yield running
    finally:
        running.stop()
