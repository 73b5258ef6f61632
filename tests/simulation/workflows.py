"""Step Functions: runs the state machines of infra/workflows/ as they are written; tasks are invoked as functions.

A task that fails or is late is tried again as a whole, as its state says; late ones may overlap with their retries.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation.functions import FunctionFailed, Functions
from tests.simulation.ports.stepfunctions import StepFunctions
from tests.simulation.scene import Scene
from tests.simulation.scheduler import Actor, current

MAX_STATE_BYTES = 256 * 1024
FOLDER = Path(__file__).parent.parent.parent / "infra" / "workflows"


class Failed(Exception):
    """An execution ended in a Fail state, or in an error that no state catches."""


class States(Exception):
    """An error of a state; `name` is what Retry and Catch look at."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name, self.cause = name, cause


@dataclass
class Workflows:
    """The state machines by name."""

    scene: Scene
    machines: dict[str, dict[str, Any]]
    service: StepFunctions
    functions: Functions
    rnd: random.Random
    ended: dict[str, list[str]] = field(default_factory=dict)  # how the executions of a machine ended

    def start(self, arn: str, name: str, document: Any) -> None:
        """Begin an execution."""
        machine = arn.rpartition("-")[2]

        def work() -> Any:
            return self._run(self.machines[machine], document)

        def over(_result: Any, error: BaseException | None) -> None:
            self.service.running.discard((arn, name))
            self.ended.setdefault(machine, []).append(str(error or "succeeded"))
            self.scene.trace.note(f"{machine} {name} ended", error=error)
            if isinstance(error, Exception) and not isinstance(error, Failed):
                raise error

        self.scene.scheduler.start(Actor(self.scene.scheduler, f"{machine} {name}", work, over))

    def _run(self, machine: dict[str, Any], document: Any) -> Any:
        name = machine["StartAt"]
        while True:
            state = machine["States"][name]
            try:
                following, document = self._state(state, document)
            except States as error:
                caught = next((c for c in state.get("Catch", []) if _matches(c["ErrorEquals"], error.name)), None)
                if caught is None:
                    raise Failed(str(error)) from error
                self.scene.reached(f"a workflow caught a failure in {name}")
                told = {"Error": error.name, "Cause": error.cause}
                document, following = _placed(document, caught.get("ResultPath", "$"), told), caught["Next"]
            if following is None:
                return document
            name = following

    def _state(self, state: dict[str, Any], document: Any) -> tuple[str | None, Any]:
        """Which state comes next, and with what."""
        following = state.get("Next")
        match state["Type"]:
            case "Succeed":
                return None, document
            case "Fail":
                raise Failed(state["Error"])
            case "Wait":
                self.scene.scheduler.pause(state["Seconds"])
                return following, document
            case "Pass":
                return following, _placed(document, state.get("ResultPath", "$"), state.get("Result", document))
            case "Choice":
                chosen = next((c["Next"] for c in state["Choices"] if _holds(c, document)), state.get("Default"))
                return chosen, document
            case "Map":
                made = self._retried(state, lambda: self._map(state, document))
            case _:
                made = self._retried(state, lambda: self._task(state, document))
        path = state.get("ResultPath", "$")
        return following, document if path is None else _placed(document, path, made)

    def _task(self, state: dict[str, Any], document: Any) -> Any:
        function = _function(state["Resource"])
        sent = _filled(state["Parameters"], document, None) if "Parameters" in state else document
        if self.rnd.random() < self.scene.mix.late_start:
            self.scene.reached("a task that begins late")
            self.scene.scheduler.pause(self.rnd.random() * 900)
        if len(json.dumps(sent)) > MAX_STATE_BYTES:
            raise States("States.DataLimitExceeded", f"the input of {function} has {len(json.dumps(sent))} bytes")
        try:
            made = self.functions.call(function, sent)
            if self.rnd.random() < self.scene.mix.again:
                self.scene.reached("a task that is done, and whose answer is lost")
                raise States("Lambda.SdkClientException", "the answer was lost")
        except FunctionFailed as error:
            raise States(error.name, str(error)) from error
        if len(json.dumps(made)) > MAX_STATE_BYTES:
            raise States("States.DataLimitExceeded", f"the answer of {function} has {len(json.dumps(made))} bytes")
        return made

    def _map(self, state: dict[str, Any], document: Any) -> list[Any]:
        """All items at the same time; the first failure is the whole's."""
        items = _at(document, state["ItemsPath"])
        made: dict[int, Any] = {}
        failed: list[BaseException] = []
        caller, scheduler = current(), self.scene.scheduler
        assert caller is not None

        def run(number: int) -> None:
            sent = _filled(state["ItemSelector"], document, items[number])

            def over(result: Any, error: BaseException | None) -> None:
                made[number] = result
                if error is not None:
                    failed.append(error)
                if len(made) == len(items):
                    scheduler.at(scheduler.now, caller.switch)

            work = partial(self._run, state["ItemProcessor"], sent)
            scheduler.start(Actor(scheduler, f"{caller.name} {number}", work, over))

        for number in range(len(items)):
            run(number)
        if items:
            scheduler.wait()
        if failed:
            if not isinstance(failed[0], Failed):
                raise failed[0]
            raise States(str(failed[0]).partition(":")[0], str(failed[0])) from failed[0]
        return [made[number] for number in range(len(items))]

    def _retried(self, state: dict[str, Any], work: Callable[[], Any]) -> Any:
        tries: dict[int, int] = {}
        while True:
            try:
                return work()
            except States as error:
                number = next(
                    (n for n, r in enumerate(state.get("Retry", [])) if _matches(r["ErrorEquals"], error.name)), None
                )
                if number is None:
                    raise
                retry = state["Retry"][number]
                tried = tries[number] = tries.get(number, 0) + 1
                if tried > retry.get("MaxAttempts", 3):
                    raise
                self.scene.reached("a task tried again as a whole")
                self.scene.scheduler.pause(
                    retry.get("IntervalSeconds", 1) * retry.get("BackoffRate", 2.0) ** (tried - 1)
                )


def read_machines() -> dict[str, dict[str, Any]]:
    """The state machines by name."""
    return {path.name.removesuffix(".asl.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.asl.json")}


def _function(resource: str) -> str:
    """`${ImportValidate}` stands for import_validate."""
    name = resource.strip("${}")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _matches(names: list[str], error: str) -> bool:
    return error in names or "States.ALL" in names or ("States.TaskFailed" in names and error != "States.Timeout")


def _at(document: Any, path: str) -> Any:
    found = document
    for part in path.removeprefix("$").strip(".").split("."):
        found = found[part] if part else found
    return found


def _filled(template: dict[str, Any], document: Any, item: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in template.items():
        if not name.endswith(".$"):
            found[name] = value
        elif value == "$$.Map.Item.Value":
            found[name[:-2]] = item
        else:
            found[name[:-2]] = _at(document, value)
    return found


def _placed(document: Any, path: str, value: Any) -> Any:
    if path == "$":
        return value
    name = path.removeprefix("$.")
    assert "." not in name, f"a path of one name, not {path}"
    return {**document, name: value}


def _holds(choice: dict[str, Any], document: Any) -> bool:
    name = choice["Variable"].removeprefix("$.")
    try:
        found = _at(document, choice["Variable"])
    except (KeyError, TypeError):
        return choice.get("IsPresent") is False
    if "IsPresent" in choice:
        return bool(choice["IsPresent"])
    if "BooleanEquals" in choice:
        return bool(found is choice["BooleanEquals"])
    raise AssertionError(f"a choice that is not known here: {name} of {choice}")
