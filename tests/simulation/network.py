"""The SDK and the network between a handler and the services: time passes, calls fail, and are tried again.

As boto3 does with the app's settings: three attempts, of which a time-out takes five seconds.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

from tests.simulation.faults import CALL_FAULTS
from tests.simulation.ports.client import Answer, Effect, refusal
from tests.simulation.scene import Scene
from tests.simulation.scheduler import Killed, current

ATTEMPTS = 3
TIMEOUT_SECONDS = 5.0
BACKOFF_SECONDS = 1.0
READS = ("get", "head", "list", "query", "scan", "batch_get", "describe", "receive")
# What each service answers when it has too much to do; the SDK tries these again.
REFUSALS = {
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "s3": ("SlowDown", 503),
    "sqs": ("ServiceUnavailable", 503),
    "kinesis": ("ProvisionedThroughputExceededException", 400),
    "apigatewaymanagementapi": ("LimitExceededException", 429),
    "stepfunctions": ("ThrottlingException", 400),
}
PIN = "~pin#"  # begins the sort keys of what holds an event's time for all of its tries
# Of one transaction that meets another write; the SDK does not try it again.
CONFLICT = "TransactionConflict"


@dataclass
class Network:
    """The link of every client of a history."""

    scene: Scene
    rnd: random.Random
    hangs: Callable[[dict[str, Any]], bool] = lambda _arguments: False  # whether a frame's socket takes nothing
    faults_until: int | None = None
    calls: int = 0
    faults: int = 0  # calls that something happened to
    tokens: int = 0

    def __call__(self, service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
        actor = current()
        if actor is None:
            return effect(**arguments)
        if actor.killed:
            raise Killed
        self.calls += 1
        if operation == "transact_write_items":  # as botocore does; each attempt has the same token
            self.tokens += 1
            arguments = {"ClientRequestToken": f"token-{self.tokens}", **arguments}
        error: Exception = AssertionError("no attempt")
        for attempt in range(ATTEMPTS):
            if attempt:
                self.scene.scheduler.pause(self.rnd.random() * BACKOFF_SECONDS * 2**attempt)
            try:
                return self._attempt(service, operation, arguments, effect)
            except ReadTimeoutError as timeout:
                error = timeout
            except ClientError as refused:
                if refused.response["Error"]["Code"] != REFUSALS.get(service, ("", 0))[0]:
                    raise
                error = refused
        self.scene.reached(f"{service} did not answer in {ATTEMPTS} attempts")
        raise error

    def _attempt(self, service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
        fate = self._fate(operation)
        pause = self.scene.scheduler.pause
        pause(self._latency())
        if operation == "post_to_connection" and self.hangs(arguments):
            pause(TIMEOUT_SECONDS)
            raise ReadTimeoutError(endpoint_url=service)
        if fate == "kill_before":
            self._die(service, operation, arguments, fate)
        if fate == "refuse":
            self._note(service, operation, arguments, fate)
            raise self._refusal(service, operation, arguments)
        if fate in ("lose_request", "late"):
            self._note(service, operation, arguments, fate)
            if fate == "late":
                self._plan_late(service, operation, arguments, effect)
            pause(TIMEOUT_SECONDS)
            raise ReadTimeoutError(endpoint_url=service)
        try:
            answer = effect(**arguments)
        except ClientError as refused:
            self.scene.trace.call(service, operation, arguments, refused)
            if _sort_key(arguments).startswith(PIN):
                self.scene.reached("a time that an earlier try had pinned")
            raise
        self.scene.trace.call(service, operation, arguments, answer)
        if _sort_key(arguments).startswith(PIN):
            self.scene.reached("a time pinned")
        if fate == "kill_after":
            self._die(service, operation, arguments, fate)
        if fate == "lose_answer":
            self._note(service, operation, arguments, fate)
            pause(TIMEOUT_SECONDS)
            raise ReadTimeoutError(endpoint_url=service)
        return answer  # whoever goes on meanwhile goes on before the next call

    def _fate(self, operation: str) -> str:
        drawn, mix = self.rnd.random(), self.scene.mix
        if drawn >= mix.calls:
            return ""
        for kind in CALL_FAULTS:
            rate = getattr(mix, kind)
            if drawn < rate:
                self.faults += 1
                if self.faults_until is not None and self.faults > self.faults_until:
                    return ""
                return "lose_request" if kind == "late" and operation.startswith(READS) else str(kind)
            drawn -= rate
        return ""

    def _latency(self) -> float:
        """Of one way; seldom the process stands still meanwhile."""
        drawn = self.rnd.random()
        seconds = 0.001 + 0.01 * drawn * drawn * self.scene.mix.slow
        if self.scene.mix.stall and self.rnd.random() < self.scene.mix.stall:
            self.scene.reached("a process that stands still")
            seconds += self.rnd.choice((1.0, 30.0, 300.0)) * self.rnd.random()
        return seconds

    def _refusal(self, service: str, operation: str, arguments: dict[str, Any]) -> ClientError:
        if operation == "transact_write_items" and self.rnd.random() < 0.5:
            self.scene.reached("a transaction that met another write")
            reasons = [{"Code": "None"} for _ in arguments["TransactItems"]]
            reasons[self.rnd.randrange(len(reasons))] = {"Code": CONFLICT, "Message": "Transaction is ongoing"}
            return refusal("TransactionCanceledException", "Transaction cancelled", CancellationReasons=reasons)
        code, status = REFUSALS.get(service, ("ThrottlingException", 400))
        return refusal(code, "Rate exceeded", status=status)

    def _plan_late(self, service: str, operation: str, arguments: dict[str, Any], effect: Effect) -> None:
        actor = current()

        def land() -> None:
            try:
                answer: Any = effect(**arguments)
            except ClientError as refused:
                answer = refused
            self.scene.trace.call(service, operation, arguments, answer, who=f"{actor.name if actor else ''} (late)")

        self.scene.scheduler.after(0.05 + self.rnd.random() ** 2 * self.scene.mix.late_seconds, land)

    def _die(self, service: str, operation: str, arguments: dict[str, Any], fate: str) -> None:
        self._note(service, operation, arguments, fate)
        actor = current()
        assert actor is not None
        actor.killed = True
        raise Killed(fate)

    def _note(self, service: str, operation: str, arguments: dict[str, Any], fate: str) -> None:
        self.scene.reached(f"{fate} {operation}")
        self.scene.reached(fate)
        self.scene.trace.fault(service, operation, arguments, fate)


def _sort_key(arguments: dict[str, Any]) -> str:
    """Of an item that is put."""
    found: str = arguments.get("Item", {}).get("sk", {}).get("S", "")
    return found
