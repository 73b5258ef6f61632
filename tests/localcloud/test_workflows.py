"""The state machines as deployed, on functions that do what the test says: every Retry, every Catch, the Map."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from infra.names import template_body
from infra.stack import TEMPLATE
from localcloud.functions import Functions
from localcloud.wire import FunctionsApi
from localcloud.workflows import RESTARTED, Workflows
from tests.localcloud.running import wait_for
from tests.localcloud.services import Services

FOLDER = TEMPLATE.parent / "workflows"
IMPORT = {"import": {"id": "i", "project": "demo", "key": "raw/demo/a", "etag": "e", "started_ms": 1}}
RESULTS: dict[str, Any] = {
    "import_validate": {"rows": 3, "parts": [1, 2, 3], "digest": "d"},
    "import_transform": {"rows": 1},
    "import_aggregate": {"ranges": [{"number": 1, "first": "a"}, {"number": 2, "first": "b"}]},
    "import_store": {"stored": 1, "duplicates": 0, "waiting": 0},
    "import_notify": {"state": "done"},
    "import_fail": {"state": "failed"},
    "consolidate": {"hours": [{"project": "demo", "hour": "2026-11-20T09"}], "failed": 0, "more": False},
    "close": {"closed": 1, "waiting": 0},
    "detect": 2,
    "notify": 2,
}
IMPORT_TASKS = ["import_validate", "import_transform", "import_aggregate", "import_store", "import_notify"]
HOURLY_TASKS = ["consolidate", "close", "detect", "notify"]


class ImportRefused(Exception):
    """By the name that the definition knows."""


class HoursNotConsolidated(Exception):
    """By the name that the definition knows."""


@dataclass
class Tasks:
    """Functions that return RESULTS, but for what `broken` says: by name, how often what is raised."""

    broken: dict[str, tuple[int, Exception]] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=dict)  # the next ones, by name, in place of RESULTS
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def called(self, name: str) -> list[dict[str, Any]]:
        """The inputs that a task was given."""
        return [event for called, event in self.calls if called == name]

    def handler(self, name: str) -> Callable[[Any, Any], Any]:
        """The function of a name."""

        def handle(event: Any, _context: Any) -> Any:
            with self.lock:
                self.calls.append((name, event))
                times, error = self.broken.get(name, (0, None))
                if times and error:
                    self.broken[name] = times - 1, error
                    raise error
                return self.results[name].pop(0) if self.results.get(name) else RESULTS[name]

        return handle


@dataclass
class Machine:
    """A state machine of infra/workflows/, and its tasks."""

    services: Services
    tasks: Tasks
    workflows: Workflows
    arn: str
    handlers: dict[str, Any]

    def run(self, document: dict[str, Any]) -> dict[str, Any]:
        """Execute; the execution when it is over."""
        client = self.services.client("stepfunctions")
        started = client.start_execution(stateMachineArn=self.arn, input=json.dumps(document))
        return self.over(started["executionArn"])

    def over(self, arn: str) -> dict[str, Any]:
        """The execution when it is over."""
        client = self.services.client("stepfunctions")
        # Its date is the last that is noted of its end; what it failed of may come after its status.
        wait_for(lambda: client.describe_execution(executionArn=arn).get("stopDate"), 30, "it runs on")
        found: dict[str, Any] = client.describe_execution(executionArn=arn)
        return found


def machine_of(
    name: str, services: Services, tasks: Tasks, functions: FunctionsApi, handlers: dict[str, Any]
) -> Machine:
    """The state machine whose definition is the file of that name, with each ${Function} by its name."""
    definition = (FOLDER / f"{name}.asl.json").read_text()
    for function in RESULTS:
        camel = "".join(part.capitalize() for part in function.split("_"))
        arn = f"arn:aws:lambda:us-east-1:000000000000:function:tidemark-dev-{function}"
        definition = definition.replace(f"${{{camel}}}", arn)
    made = services.client("stepfunctions").create_state_machine(
        name=f"{name}-{uuid.uuid4().hex[:8]}",
        definition=definition,
        roleArn="arn:aws:iam::000000000000:role/anything",
    )
    return Machine(services, tasks, Workflows(functions), made["stateMachineArn"], handlers)


@pytest.fixture
def functions(
    monkeypatch: pytest.MonkeyPatch, services: Services
) -> Iterator[tuple[Tasks, FunctionsApi, dict[str, Any]]]:
    from ministack.services import stepfunctions

    monkeypatch.setattr(stepfunctions, "_SFN_WAIT_SCALE", 0)
    monkeypatch.setattr(stepfunctions, "_call_lambda", stepfunctions._call_lambda)  # put back at the end
    tasks = Tasks()
    handlers: dict[str, Any] = {name: tasks.handler(name) for name in RESULTS}
    server = Functions(handlers, {}, [], 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield tasks, FunctionsApi(server.server_address[1], timeout_seconds=5), handlers
    server.finish()


@pytest.fixture
def importing(services: Services, functions: tuple[Tasks, FunctionsApi, dict[str, Any]]) -> Machine:
    return machine_of("import", services, *functions)


@pytest.fixture
def hourly(services: Services, functions: tuple[Tasks, FunctionsApi, dict[str, Any]]) -> Machine:
    return machine_of("hourly", services, *functions)


def attempts(name: str) -> int:
    """How often a task that goes on failing is called: the first time, and as often as its Retry says."""
    most: int = max(retrier["MaxAttempts"] for retrier in task_named(name)["Retry"])
    return 1 + most


def task_named(name: str) -> dict[str, Any]:
    """The state whose resource is the function."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    return next(state for state in every_state() if state.get("Resource") == f"${{{camel}}}")


def every_state() -> Iterator[dict[str, Any]]:
    """Those of Maps included."""
    for path in sorted(FOLDER.glob("*.asl.json")):
        waiting = list(json.loads(path.read_text())["States"].values())
        while waiting:
            state = waiting.pop()
            yield state
            waiting += state.get("ItemProcessor", {}).get("States", {}).values()


def test_a_file_goes_through_every_task_and_each_part_and_range_through_its_own(importing: Machine) -> None:
    over = importing.run(IMPORT)

    assert over["status"] == "SUCCEEDED"
    tasks = importing.tasks
    assert [event["part"] for event in sorted(tasks.called("import_transform"), key=lambda e: e["part"])] == [1, 2, 3]
    assert {event["range"]["first"] for event in tasks.called("import_store")} == {"a", "b"}
    assert tasks.called("import_aggregate") == [{**IMPORT, "parts": [1, 2, 3]}]
    assert tasks.called("import_notify") == [{**IMPORT, "parts": [1, 2, 3], "stored": [RESULTS["import_store"]] * 2}]
    assert tasks.called("import_fail") == []


@pytest.mark.parametrize("name", IMPORT_TASKS)
def test_a_task_that_fails_for_a_while_is_tried_again(importing: Machine, name: str) -> None:
    importing.tasks.broken[name] = attempts(name) - 1, TimeoutError("a store does not answer")

    over = importing.run(IMPORT)

    assert over["status"] == "SUCCEEDED"
    assert importing.tasks.called("import_fail") == []


@pytest.mark.parametrize("name", IMPORT_TASKS[:-1])
def test_a_task_that_goes_on_failing_ends_the_import_with_its_error(importing: Machine, name: str) -> None:
    importing.tasks.broken[name] = 1000, TimeoutError("a store does not answer")

    over = importing.run(IMPORT)

    assert (over["status"], over["error"]) == ("FAILED", "NotImported")
    (told,) = importing.tasks.called("import_fail")
    assert told["import"] == IMPORT["import"]
    assert told["error"]["Error"] == "TimeoutError"
    assert json.loads(told["error"]["Cause"])["errorMessage"] == "a store does not answer"
    if name in ("import_validate", "import_aggregate"):
        assert len(importing.tasks.called(name)) == attempts(name)
    assert importing.tasks.called("import_notify") == []


@pytest.mark.parametrize("name", IMPORT_TASKS[:-1])
def test_a_file_that_is_refused_is_not_tried_again(importing: Machine, name: str) -> None:
    importing.tasks.broken[name] = 1, ImportRefused("it is no file of ours")

    over = importing.run(IMPORT)

    assert (over["status"], over["error"]) == ("FAILED", "NotImported")
    inputs = [json.dumps(event, sort_keys=True) for event in importing.tasks.called(name)]
    assert len(inputs) == len(set(inputs))


def test_an_import_of_which_nobody_could_be_told_has_failed_and_stays_imported(importing: Machine) -> None:
    importing.tasks.broken["import_notify"] = 1000, TimeoutError("nobody answers")

    over = importing.run(IMPORT)

    assert (over["status"], over["error"]) == ("FAILED", "NotTold")
    assert len(importing.tasks.called("import_notify")) == attempts("import_notify")
    assert importing.tasks.called("import_fail") == []


def test_a_failure_is_told_again_until_it_is_and_at_last_fails_itself(importing: Machine) -> None:
    importing.tasks.broken["import_validate"] = 1, ImportRefused("no file of ours")
    importing.tasks.broken["import_fail"] = 1, TimeoutError("nobody answers")
    assert importing.run(IMPORT)["error"] == "NotImported"

    importing.tasks.broken["import_validate"] = 1, ImportRefused("no file of ours")
    importing.tasks.broken["import_fail"] = 1000, TimeoutError("nobody answers")
    assert importing.run(IMPORT)["error"] == "NotTold"


def test_what_ran_when_the_cloud_ended_begins_anew_with_the_next(importing: Machine, services: Services) -> None:
    from ministack.services import stepfunctions

    client = services.client("stepfunctions")
    arn = client.start_execution(stateMachineArn=importing.arn, input=json.dumps(IMPORT))["executionArn"]
    importing.over(arn)
    found = stepfunctions._executions._data
    (key,) = (key for key in found if key[2] == arn)
    found[key].update(status="FAILED", error=RESTARTED)  # as MiniStack does with what it restores as running

    assert importing.workflows.resume() == 1

    assert importing.over(arn)["status"] == "SUCCEEDED"
    assert len(importing.tasks.called("import_notify")) == 2


def test_a_task_waits_for_functions_that_are_away(
    importing: Machine, functions: tuple[Tasks, FunctionsApi, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, api, _ = functions
    asked: list[float] = []

    def reachable() -> bool:
        asked.append(time.monotonic())
        if len(asked) > 3:
            api._endpoint.port = port
        return len(asked) > 3

    port = api._endpoint.port
    api._endpoint.port = 1  # where nothing listens
    monkeypatch.setattr(api, "reachable", reachable)

    assert importing.run(IMPORT)["status"] == "SUCCEEDED"
    assert len(asked) > 3


def test_only_the_latest_executions_are_kept(importing: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from ministack.services import stepfunctions

    monkeypatch.setattr("localcloud.workflows.KEPT_EXECUTIONS", 1)
    importing.run(IMPORT)
    importing.run(IMPORT)

    importing.workflows.forget()

    assert len([e for _, e in stepfunctions._executions.all_items() if e["status"] != "RUNNING"]) == 1


# The hour


def test_an_hour_is_consolidated_closed_judged_and_told_of_and_looked_at_once_more(hourly: Machine) -> None:
    over = hourly.run({})

    assert over["status"] == "SUCCEEDED"
    assert [name for name, _ in hourly.tasks.calls] == [*HOURLY_TASKS, "consolidate", "close"]
    assert hourly.tasks.called("close")[0] == {"hours": RESULTS["consolidate"]["hours"], "failed": 0}


def test_more_hours_than_one_task_takes_are_done_one_after_the_other(hourly: Machine) -> None:
    hourly.tasks.results["consolidate"] = [{**RESULTS["consolidate"], "more": True}] * 2

    hourly.run({})

    names = [name for name, _ in hourly.tasks.calls]
    assert names == ["consolidate", "close"] * 3 + ["detect", "notify", "consolidate", "close"]


@pytest.mark.parametrize("name", HOURLY_TASKS)
def test_a_task_of_the_hour_that_fails_for_a_while_is_tried_again(hourly: Machine, name: str) -> None:
    hourly.tasks.broken[name] = attempts(name) - 1, TimeoutError("a store does not answer")

    assert hourly.run({})["status"] == "SUCCEEDED"


@pytest.mark.parametrize("name", HOURLY_TASKS)
def test_a_task_of_the_hour_that_goes_on_failing_keeps_no_other_from_its_turn(hourly: Machine, name: str) -> None:
    hourly.tasks.broken[name] = 1000, TimeoutError("a store does not answer")

    over = hourly.run({})

    assert (over["status"], over["error"]) == ("FAILED", "HourNotDone")
    assert len(hourly.tasks.called(name)) == attempts(name)
    others = {called for called, _ in hourly.tasks.calls} - {name}
    assert others == {*HOURLY_TASKS} - {name} - ({"close"} if name == "consolidate" else set())


def test_hours_that_were_not_consolidated_fail_the_hour_at_its_end_without_another_try(hourly: Machine) -> None:
    hourly.tasks.broken["close"] = 1000, HoursNotConsolidated("2 hours could not be consolidated")

    over = hourly.run({})

    assert (over["status"], over["error"]) == ("FAILED", "HourNotDone")
    assert len(hourly.tasks.called("close")) == 1
    assert len(hourly.tasks.called("notify")) == 1


def test_what_fails_in_the_second_look_fails_the_hour(hourly: Machine) -> None:
    seen = []

    def failing(event: Any, _context: Any) -> Any:
        seen.append(event)
        if len(seen) > 1:
            raise TimeoutError("a store does not answer")
        return RESULTS["consolidate"]

    hourly.handlers["consolidate"] = failing

    over = hourly.run({})

    assert (over["status"], over["error"]) == ("FAILED", "HourNotDone")
    assert len(seen) == 1 + attempts("consolidate")


def test_every_state_that_can_fail_has_its_retry_and_every_step_its_catch() -> None:
    for path in FOLDER.glob("*.asl.json"):
        states = json.loads(path.read_text())["States"]
        for name, state in states.items():
            if state["Type"] in ("Task", "Map"):
                assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name
                assert {catcher["Next"] for catcher in state["Catch"]} <= states.keys()
            if state.get("Next"):
                assert state["Next"] in states
    assert all(state["Retry"] and state["TimeoutSeconds"] for state in every_state() if state["Type"] == "Task")


def test_the_template_holds_the_definitions_as_they_are_in_their_files() -> None:
    body = template_body(TEMPLATE)

    assert len(body.encode()) <= 51_200  # CloudFormation's limit
    for path in FOLDER.glob("*.asl.json"):
        compact = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
        assert json.dumps(compact) in body
