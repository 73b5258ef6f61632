"""EventBridge's schedules as a function's trigger: rate(...) expressions, and a minute of every hour."""

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

_MINUTE = re.compile(r"cron\(([1-5]?\d) \* \* \* \? \*\)")
UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def period_seconds(expression: str) -> int:
    """Return the period of rate(5 minutes) or cron(10 * * * ? *); raises LocalCloudError for anything else."""
    if _MINUTE.fullmatch(expression):
        return UNIT_SECONDS["hour"]
    match = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    if match is None:
        raise LocalCloudError(
            f"the local cloud runs schedules like rate(5 minutes) or cron(10 * * * ? *), not {expression!r}"
        )
    return int(match[1]) * UNIT_SECONDS[match[2]]


def wait_seconds(expression: str, now: float) -> float:
    """From `now` (Unix seconds) to the first invocation."""
    period = period_seconds(expression)
    match = _MINUTE.fullmatch(expression)
    return period if match is None else (int(match[1]) * 60 - now) % period


class Schedule(Pump):
    """Invokes a function once each period, the first time after one, or at its minute.

    A failed invocation's retry is the next one. Never beside itself, which EventBridge does when the function takes
    longer than a period.
    """

    def __init__(self, trigger: Mapping[str, Any], functions: FunctionsApi, waker: Waker) -> None:
        super().__init__(f"{trigger['function']} (schedule)", functions, waker)
        self.trigger = trigger
        self.period: float = period_seconds(trigger["expression"])
        self.due_at = time.monotonic() + wait_seconds(trigger["expression"], time.time())

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
    """Return what EventBridge sends."""
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
