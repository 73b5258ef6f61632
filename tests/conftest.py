"""Fixtures of all tests: `stack` is the whole product, as `make run` starts it; `services` its AWS."""

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.localcloud.running import KEY_CACHE_SECONDS, Stack, start_stack
from tests.localcloud.services import services

__all__ = ["services"]

# Files that take long, and so begin first, in this order: whoever ends last makes all the others wait. The first one
# only waits itself, for minutes of the clock. Files that use a stack begin before all others, see `Shared`.
LONG = (
    "end_to_end/test_watch.py",
    "simulation/test_simulation.py",
    "end_to_end/test_main_job.py",
    "localcloud/test_consolidation.py",
    "numbers/test_oracle.py",
    "imports/test_importing.py",
    "sdks/test_lossy_network.py",
    "end_to_end/test_imports.py",
    "end_to_end/test_limits.py",
    "localcloud/test_supervisor.py",
)

# A timing is never a pass-or-fail test.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


WITH_STACK = pytest.StashKey[set[Path]]()  # the files that use one


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests, order = Path(__file__).parent, {name: number for number, name in enumerate(LONG)}
    files = {item.path for item in items if "stack" in getattr(item, "fixturenames", ())}
    config.stash[WITH_STACK] = files

    def place(item: pytest.Item) -> tuple[bool, int]:
        return item.path not in files, order.get(item.path.relative_to(tests).as_posix(), len(LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is there for all tests is no garbage, so no collection looks at it: a tenth of all time is spent on that."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@dataclass
class Shared:
    """The stack of a process's files: started for the first, and stopped before the first file that uses none.

    Left alone it takes a thirtieth of a core, which for some minutes is more than a start.
    """

    folders: pytest.TempPathFactory
    running: Stack | None = None

    def get(self) -> Stack:
        if self.running is None:
            pauses = {"rest": {"chalicelib.access.authorize.CACHE_SECONDS": KEY_CACHE_SECONDS}}
            self.running = start_stack(self.folders.mktemp("state"), LOCALCLOUD_PAUSES=json.dumps(pauses))
        return self.running

    def stop(self) -> None:
        running, self.running = self.running, None
        if running is not None:
            running.stop()


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """What starts and stops `stack`."""
    found = Shared(tmp_path_factory)
    yield found
    found.stop()


@pytest.fixture(scope="module", autouse=True)
def without_stack(request: pytest.FixtureRequest) -> None:
    """Of a file that uses no stack: the one of the files before has ended."""
    if request.path not in request.config.stash[WITH_STACK]:
        request.getfixturevalue("shared_stack").stop()


@pytest.fixture(scope="module")
def stack(shared_stack: Shared) -> Stack:
    """A running local cloud with functions and REST on free ports and a state folder of its own."""
    return shared_stack.get()


@pytest.fixture(scope="module")
def kinesis_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Another one, with Kinesis in place of SQS, for one file."""
    running = start_stack(tmp_path_factory.mktemp("state"), BUFFER="kinesis")
    try:
        yield running
    finally:
        running.stop()
