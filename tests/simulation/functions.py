"""Lambda: invokes the app's handlers, each in a container of its function, with time-outs."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from tests.simulation.containers import Container
from tests.simulation.scene import Scene
from tests.simulation.scheduler import Actor, Killed, Scheduler, current

Ended = Callable[[Any, BaseException | None], None]
DEFAULT_TIMEOUT_SECONDS = 30.0
EDGE_SKEW = {"api_handler": 4.0}  # at most, in seconds: what events are corrected by and clamped to
MAX_ANSWER_BYTES = 6 * 1024 * 1024


@dataclass
class Context:
    """What a handler is told of its invocation."""

    function_name: str
    scheduler: Scheduler
    deadline: float
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        """Until the time-out."""
        return int((self.deadline - self.scheduler.now) * 1000)


class FunctionFailed(Exception):
    """An invocation ended in an error; `name` is the error's own, as Step Functions sees it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


@dataclass
class Functions:
    """The functions by name; a container serves one invocation at a time, and none after it was killed."""

    scene: Scene
    handlers: Mapping[str, Callable[[Any, Any], Any]]
    timeouts: Mapping[str, float]
    rnd: random.Random
    failures: list[str] = field(default_factory=list)  # errors that no fault explains
    idle: dict[str, list[Container]] = field(default_factory=dict)
    made: int = 0
    invocations: int = 0

    def invoke(self, function: str, event: Any, ended: Ended, who: str = "") -> Actor:
        """Begin; `ended` gets what the handler returned, or FunctionFailed."""
        self.invocations += 1
        container = self._container(function)
        deadline = self.scene.scheduler.now + self.timeouts.get(function, DEFAULT_TIMEOUT_SECONDS)
        context = Context(function, self.scene.scheduler, deadline)
        handler = self.handlers[function]

        def work() -> Any:
            return handler(event, context)

        def over(result: Any, error: BaseException | None) -> None:
            if isinstance(error, Killed):
                self.scene.reached(f"{function} killed")
                self.scene.trace.note("killed", container=container, why=str(error))
                ended(None, FunctionFailed("Sandbox.Timedout", f"{function} was killed: {error}"))
                return
            self.idle.setdefault(function, []).append(container)
            if error is not None:
                if not _is_expected(error):
                    self.failures.append(f"{function} failed with {error!r}")
                self.scene.trace.note("failed", container=container, error=repr(error))
                self.scene.reached(f"{function} failed")
                ended(None, FunctionFailed(type(error).__name__, str(error)))
            else:
                ended(result, None)

        name = who or str(container)
        return self.scene.scheduler.start(
            Actor(self.scene.scheduler, name, work, over, container=container, deadline=deadline)
        )

    def call(self, function: str, event: Any) -> Any:
        """Invoke from an actor, and wait for what the handler returns, as JSON; raises FunctionFailed."""
        outcome: list[Any] = []
        caller = current()
        assert caller is not None

        def ended(result: Any, error: BaseException | None) -> None:
            outcome.append((result, error))
            self.scene.scheduler.at(self.scene.scheduler.now, caller.switch)

        self.invoke(function, orjson.loads(orjson.dumps(event)), ended)
        self.scene.scheduler.wait()
        result, error = outcome[0]
        if error is not None:
            raise error
        return orjson.loads(orjson.dumps(result))

    def _container(self, function: str) -> Container:
        idle = self.idle.setdefault(function, [])
        if idle and self.rnd.random() >= self.scene.mix.cold:
            return idle.pop(self.rnd.randrange(len(idle)))
        if len(idle) > 3:
            idle.clear()  # Lambda retires them as it likes
        self.made += 1
        skew = (self.rnd.random() * 2 - 1) * min(self.scene.mix.skew_seconds, EDGE_SKEW.get(function, 60.0))
        return Container(function, self.made, skew)


def _is_expected(error: BaseException) -> bool:
    """Whether a handler may fail so: because a store did, or in words of the app's own."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] not in ("ValidationException", "InvalidParameterValue", "InvalidRange")
    own = type(error).__module__.startswith("chalicelib")
    return own or isinstance(error, BotoCoreError | FileNotFoundError | Killed)
