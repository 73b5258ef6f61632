"""State machines: MiniStack runs them, the functions process their tasks.

What Step Functions does and MiniStack does not: an execution survives a restart. Here it begins anew, which the tasks,
each of which may run any number of times, cannot tell from a retry.

Reaches into MiniStack's inside, for the one release that is pinned.
"""

import contextvars
import json
import logging
import threading
from typing import Any

import orjson

from localcloud.places import ACCOUNT, REGION, STAGE
from localcloud.wire import FunctionFailed, FunctionsApi, Unreachable

log = logging.getLogger("localcloud.workflows")

RESTARTED = "States.ServiceRestart"  # MiniStack's word for an execution that it found running
KEPT_EXECUTIONS = 100  # that are over; their histories are part of the state that is saved
POLL_SECONDS = 0.2


class Workflows:
    """Routes the tasks of every state machine to the functions."""

    def __init__(self, functions: FunctionsApi) -> None:
        from ministack.services import stepfunctions

        self._functions = functions
        self._sfn: Any = stepfunctions
        self._stopping = threading.Event()
        stepfunctions._call_lambda = self._call

    def resume(self) -> int:
        """Begin anew what was running when the cloud ended; returns how many."""
        resumed = 0
        for (account, region, arn), execution in self._sfn._executions.all_items():
            if account != ACCOUNT or region != REGION or execution.get("error") != RESTARTED:
                continue
            execution.update(status="RUNNING", stopDate=None, error=None, cause=None, output=None)
            del execution["events"][1:]
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self._run, arn), daemon=True).start()
            resumed += 1
        return resumed

    def stop(self) -> None:
        """The cloud ends: no task is started any more, so that what runs is saved as running."""
        self._stopping.set()

    def forget(self) -> None:
        """Drop the oldest executions that are over."""
        over = [
            key for key, execution in self._sfn._executions.all_items() if execution["status"] not in ("RUNNING", "")
        ]
        for account, region, arn in over[:-KEPT_EXECUTIONS]:
            self._sfn._executions._data.pop((account, region, arn), None)

    def _run(self, arn: str) -> None:
        from ministack.core.responses import set_request_account_id, set_request_region

        set_request_account_id(ACCOUNT)
        set_request_region(REGION)
        self._sfn._run_execution(arn)

    def _call(self, function: str, event: Any) -> Any:
        """Return the function's value; raises MiniStack's own error, under the name of the function's."""
        name = function.rpartition(":")[2].removeprefix(f"tidemark-{STAGE}-")
        payload = orjson.dumps(event)
        while True:
            self._wait_if_stopping()
            try:
                return self._functions.invoke(name, payload)
            except Unreachable:
                self._functions.wait_reachable(self._stopping.is_set)
            except FunctionFailed as error:
                self._wait_if_stopping()
                log.warning("%s", error)
                cause = {"errorType": error.error_type, "errorMessage": error.message}
                raise self._sfn._ExecutionError(error.error_type, json.dumps(cause)) from error

    def _wait_if_stopping(self) -> None:
        """Once the cloud ends, this thread, a daemon, waits with it: a task that was lost is no failure."""
        while self._stopping.is_set():
            threading.Event().wait(POLL_SECONDS)
