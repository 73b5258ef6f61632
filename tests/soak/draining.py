"""After the traffic: wait until everything that was taken has come to its end, and say what has not."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chalicelib.base.metrics import INVARIANTS
from chalicelib.base.object_keys import SPILL
from chalicelib.base.time_windows import HOUR_MS, hour_start_ms
from chalicelib.rollups.hours_table import HoursTable
from localcloud.places import ACCOUNT, PROJECT
from tests.localcloud.running import Stack
from tests.soak.balance import Found, Reader
from tests.soak.samples import Sampler
from tests.soak.traffic import PROJECTS, utc_now_ms
from tests.soak.troubles import PAUSES, Hourly

BUCKET = f"tidemark-dev-data-{ACCOUNT}"
PATIENCE_SECONDS = 300.0  # a message that is lost with its function comes again after 60, five times
POLL_SECONDS = 1.0
# Those that say how late something is, or that something waits, are no sign of a loss.
ALARMS = {name for name, (unit, _) in INVARIANTS.items() if unit == "Count"} - {"MessagesSpilled"}


@dataclass
class Draining:
    """Each step returns once nothing is left of it, or says what is."""

    stack: Stack
    sampler: Sampler
    hourly: Hourly
    reader: Reader
    found: Found
    say: Callable[[str], None]

    def drain(self) -> list[str]:
        """All steps; what was still not done when the patience was over."""
        table = HoursTable(self.stack.client("dynamodb"), "tidemark-dev-rollups")
        steps: dict[str, Callable[[], Any]] = {
            "messages in the queue": self.sampler.queue,
            "dead letters": self._dead,
            "messages in the spill": self._spilled,
            "events in flight": lambda: in_flight(self.reader, self.found),
            "hours that are over and not closed": lambda: self._open(table),
        }
        return [left for what, count in steps.items() if (left := self._until_none(what, count))]

    def _until_none(self, what: str, count: Callable[[], Any]) -> str:
        self.say(f"Waiting: {what} ...")
        until, before = time.monotonic() + PATIENCE_SECONDS, None
        while left := count():
            if left != before:  # something still happens
                until, before = time.monotonic() + PATIENCE_SECONDS, left
            if time.monotonic() > until:
                return f"{what}: {left}, and nothing changed in {PATIENCE_SECONDS:.0f} s"
            time.sleep(POLL_SECONDS)
        return ""

    def _dead(self) -> int:
        """Dead letters are put right as an operator would."""
        dead = self.sampler.queue("-dlq")
        if dead:
            self.say(f"{dead} dead letters: python -m ops redrive --stage dev")
            environ = {**os.environ, "AWS_ENDPOINT_URL": self.stack.cloud_url, "AWS_CONFIG_FILE": os.devnull}
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
            command = [sys.executable, "-m", "ops", "redrive", "--stage", "dev"]
            subprocess.run(command, cwd=PROJECT, env={**environ, **keys}, check=True)
        return dead + self.sampler.queue()

    def _spilled(self) -> int:
        listed = self.stack.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=SPILL)
        return int(listed["KeyCount"])

    def _open(self, table: HoursTable) -> list[str]:
        """The hours that are over and dirty, after one more run of the hourly workflow where there are any."""
        over_ms = utc_now_ms() - HOUR_MS - PAUSES["functions"]["chalicelib.base.waits.ARRIVAL_MS"]
        dirty = [hour for hour in table.waiting() if hour.is_dirty and hour_start_ms(hour.hour) <= over_ms]
        if dirty:
            self.hourly.once()
        return [f"{hour.project} {hour.hour}" for hour in dirty]


def in_flight(reader: Reader, found: Found) -> dict[str, int]:
    """What is still on its way, by project and hour of receipt; the ledgers are kept as found."""
    for project in PROJECTS:
        for ledger in reader.ledger(project):
            found.ledgers[project, ledger["hour"]] = {k: v for k, v in ledger.items() if k != "hour"}
    return {" ".join(key): ledger["in_flight"] for key, ledger in found.ledgers.items() if ledger["in_flight"] > 0}


def alarms_of(stack: Stack) -> dict[str, int]:
    """What the app said of its invariants, where it was not 0: the sum of each metric."""
    counted: Counter[str] = Counter()
    for path in sorted((stack.state / "logs").glob("functions.log*")):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{") and '"_aws"' in line:
                said = json.loads(line)
                counted.update({name: said[name] for name in ALARMS if said.get(name)})
    return dict(counted)


def faults_of(stack: Stack) -> list[tuple[float, str, str]]:
    """What the local cloud did to calls and invocations: Unix seconds, kind, and to whom."""
    log = stack.state / "logs" / "faults.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(each["at"], each["kind"], each["where"]) for each in map(json.loads, lines)]
