"""EventBridge's schedules as a function's trigger: rate(...) expressions."""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from localcloud.places import ACCOUNT, REGION, LocalCloudError
from localcloud.pump import Pump, Waker
from localcloud.wire import FunctionFailed, FunctionsApi, Unreachable

log = logging.getLogger("localcloud.triggers")

UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def period_seconds(expression: str) -> int:
    """The period of rate(5 minutes); raises LocalCloudError for anything else."""
    match = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    if match is None:
        raise LocalCloudError(f"the local cloud runs schedules like rate(5 minutes), not {expression!r}")
    return int(match[1]) * UNIT_SECONDS[match[2]]


class Schedule(Pump):
    """Invokes a function once each period, the first time after one; the next invocation is a failed one's retry.

    Never beside itself, which EventBridge does when the function takes longer than a period.
    """

    def __init__(self, trigger: Mapping[str, Any], functions: FunctionsApi, waker: Waker) -> None:
        super().__init__(f"{trigger['function']} (schedule)", functions, waker)
        self.trigger = trigger
        self.period: float = period_seconds(trigger["expression"])
        self.due_at = time.monotonic() + self.period

    def turn(self) -> bool:
        """Invoke when it is time."""
        if time.monotonic() < self.due_at or self.hurried:
            return False
        self.due_at = max(self.due_at + self.period, time.monotonic())
        self.busy = True
        try:
            self.functions.invoke(self.trigger["function"], orjson.dumps(scheduled_event(self.trigger["function"])))
        except FunctionFailed as error:
            log.warning("%s: %s; it runs again in %d s", self.name, error, self.period)
        except Unreachable:
            self.due_at = time.monotonic()
        finally:
            self.busy = False
        return True


def scheduled_event(function: str) -> dict[str, Any]:
    """What EventBridge sends."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{function}"],
        "detail": {},
    }
