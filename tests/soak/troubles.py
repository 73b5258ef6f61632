"""What happens beside the traffic: processes are killed, and the hourly workflow runs again and again."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.places import ACCOUNT, REGION, Places, Running

KILLS_UNTIL = 0.4  # of the run: what is started last has done everything once when its memory is judged
KILL_EVERY_SECONDS = (15.0, 40.0)
VICTIMS = ("functions", "functions", "rest")
HOURLY_SECONDS = 20.0  # between the end of a run of the hourly workflow and the next
WORKFLOW_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:tidemark-dev-hourly"
ONCE = '{"again": true}'  # as in its second half: consolidate, close, and no wait for what is late
POLL_SECONDS = 0.5

MINUTE_MS = 60_000
# The life of an hour, in minutes instead of hours. A query of the soak's takes seconds: nothing is deleted under it.
PAUSES = {
    "functions": {
        "chalicelib.base.waits.ARRIVAL_MS": MINUTE_MS // 2,
        "chalicelib.base.waits.REST_MS": MINUTE_MS,
        "chalicelib.base.waits.TURN_MS": MINUTE_MS,
        "chalicelib.base.waits.GRACE_MS": 2 * MINUTE_MS,
        "chalicelib.base.waits.ORPHAN_MS": 4 * MINUTE_MS,
        "chalicelib.base.waits.CLEAN_MS": MINUTE_MS,
        "chalicelib.base.waits.MERGE_MS": MINUTE_MS // 3,
        "chalicelib.base.waits.FOLD_MS": 2 * MINUTE_MS,
        "chalicelib.base.waits.VISIBLE_AGE_MS": MINUTE_MS,
    },
    "rest": {"chalicelib.base.waits.VISIBLE_AGE_MS": MINUTE_MS},
}


@dataclass
class Notes:
    """What was done, and when, in seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.time)
    done: list[tuple[float, str, str]] = field(default_factory=list)

    def __call__(self, kind: str, where: str) -> None:
        self.done.append((time.monotonic() - self.began, kind, where))


def switch_on(places: Places, seed: int, strength: float) -> None:
    """Have the local cloud's services and invocations go wrong: localcloud/faults.py."""
    draft = places.faults.with_suffix(".draft")
    draft.write_text(json.dumps({"seed": seed, "strength": strength}))
    draft.replace(places.faults)


def switch_off(places: Places) -> None:
    """All goes well again."""
    places.faults.unlink(missing_ok=True)


@dataclass
class Killer:
    """Kills a process every now and then, with SIGKILL, until `stopping` is set."""

    places: Places
    random: Random
    note: Callable[[str, str], None]
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        """Begin."""
        thread = threading.Thread(target=self._run, name="killer", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self.stopping.wait(self.random.uniform(*KILL_EVERY_SECONDS)):
            victim = self.random.choice(VICTIMS)
            running = Running.read(self.places)
            if running is not None and victim in running.children:
                with suppress(ProcessLookupError):
                    os.kill(running.children[victim], signal.SIGKILL)
                    self.note("killed", victim)


@dataclass
class Hourly:
    """Runs the hourly workflow again and again, and `afterwards`, until `stopping` is set; `runs` is how each ended."""

    states: Any
    note: Callable[[str, str], None]
    afterwards: Callable[[], object]
    runs: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        """Begin."""
        thread = threading.Thread(target=self._run, name="hourly", daemon=True)
        thread.start()
        return thread

    def once(self) -> str:
        """One run; how it ended."""
        arn = self.states.start_execution(
            stateMachineArn=WORKFLOW_ARN, name=f"soak-{time.time_ns()}", input=ONCE
        )["executionArn"]  # fmt: skip
        while (status := self.states.describe_execution(executionArn=arn)["status"]) == "RUNNING":
            if self.stopping.wait(POLL_SECONDS):
                return "STOPPED"
        self.runs.append(status)
        self.note("hourly workflow", status)
        return str(status)

    def _run(self) -> None:
        while not self.stopping.wait(HOURLY_SECONDS):
            with suppress(ClientError, BotoCoreError):
                self.once()
            self.afterwards()
