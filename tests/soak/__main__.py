"""`python -m tests.soak`: traffic with faults on a local cloud of its own, then an exact balance, and a picture.

A soak starts its own local cloud on free ports, sends events through REST, kills processes, has services and functions
fail, loses sockets, and lets the hourly workflow run again and again. Nothing is killed in the last three fifths of the
time, so that the memory of the processes can be judged. At the end nothing may differ between what was acknowledged and
GET /analytics, SQL on the lake, the ledger and the dashboards.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from tqdm import tqdm

from chalicelib.base.time_windows import HOUR_MS
from chalicelib.events.contracts import Contracts
from demo.sender import Outcome
from demo.traffic import Run
from localcloud.places import PROJECT, Places
from localcloud.wire import CloudApi
from tests.localcloud.running import Stack, start_stack
from tests.soak import troubles, verdict
from tests.soak.balance import Found, Reader, Row, compare
from tests.soak.draining import Draining, alarms_of, faults_of, in_flight
from tests.soak.samples import Sampler
from tests.soak.sender import SoakSender
from tests.soak.traffic import HOURS_BACK, PROJECTS, deliveries, utc_now_ms
from tests.soak.viewers import Viewer, watching

AGREE_SECONDS = 90.0  # for the last numbers to come through, once all is drained
LOOK_SECONDS = 30.0  # for a dashboard to show what there is


def parser() -> argparse.ArgumentParser:
    """The options; the environment gives their defaults, so that `make soak MINUTES=60` works."""
    env = os.environ
    made = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--minutes", type=float, default=env.get("MINUTES") or "10", help="how long; MINUTES (%(default)s)")
    add("--rate", type=float, default=env.get("RATE") or "300", help="events per second; RATE (%(default)s)")
    seed = env.get("SEED") or str(secrets.randbelow(10_000))
    add("--seed", type=int, default=seed, help="of traffic and faults; SEED (another one each time)")
    add("--faults", type=float, default=env.get("FAULTS") or "1", help="how many: 0 none, 2 twice as many; FAULTS")
    add("--threads", type=int, default=16, help="requests at the same time (%(default)s)")
    add("--folder", type=Path, default=PROJECT / "build" / "soak", help="for state, logs and picture (%(default)s)")
    return made


class Soak:
    """One run, on a stack that is ready."""

    def __init__(self, options: argparse.Namespace, stack: Stack) -> None:
        self.options, self.stack, self.places = options, stack, Places(stack.state)
        random = Random(f"troubles {options.seed}")
        self.notes, self.found, self.reader = troubles.Notes(), Found(), Reader(stack.rest_url)
        self.sender = SoakSender(
            stack.rest_url,
            threads=options.threads,
            file=options.folder / "acknowledged.txt",
            queued=self._queued,
            progress=self._progress,
        )
        self.viewers = {
            f"that {how}": [Viewer(stack.rest_url, project, how == "drops", Random(random.random()), self.notes)
                            for project in PROJECTS]
            for how in ("stays", "drops")
        }  # fmt: skip
        self.sampler = Sampler(
            self.places, CloudApi(stack.cloud_port), lambda: self.sender.sent.total, self._shown, os.getpid()
        )
        self.hourly = troubles.Hourly(
            stack.client("stepfunctions"), self.notes, lambda: in_flight(self.reader, self.found)
        )
        self.killer = troubles.Killer(self.places, Random(random.random()), self.notes)
        self.line: tqdm[object] | None = None

    def run(self) -> int:
        """Send, drain, compare, tell; the exit code."""
        began_ms = utc_now_ms()
        everybody = [viewer for viewers in self.viewers.values() for viewer in viewers]
        with ExitStack() as end:
            end.enter_context(watching(everybody, [(self.stack.rest_url, PROJECTS[0])], self.notes))
            for each in (self.sampler, self.hourly, self.killer):
                end.callback(each.stopping.set)
            measuring, working = self.sampler.start(), self.hourly.start()
            seconds = self._send()
            self.hourly.stopping.set()
            working.join()
            self.hourly.stopping.clear()
            left = Draining(self.stack, self.sampler, self.hourly, self.reader, self.found, say).drain()
            rows = self._agreed(began_ms)
            self.sampler.stopping.set()
            measuring.join()
        return verdict.tell(
            verdict.Result(
                self.options, self.sender, seconds, self.sampler.samples, self.notes, faults_of(self.stack),
                self.hourly.runs, left, alarms_of(self.stack), rows,
            )
        )  # fmt: skip

    def _send(self) -> float:
        """All of the traffic, under a line that shows how far it is; how many seconds it took."""
        options, began = self.options, time.monotonic()
        seconds = options.minutes * 60
        timers = [threading.Timer(seconds, self.sender.stopping.set)]
        if options.faults:
            troubles.switch_on(self.places, options.seed, options.faults)
            self.killer.start()
            timers.append(threading.Timer(seconds * troubles.KILLS_UNTIL, self.killer.stopping.set))
        for timer in timers:
            timer.daemon = True
            timer.start()
        moment = datetime.now(UTC)
        run = Run(options.seed, f"{moment:%Y%m%dT%H%M%SZ}-soak", options.rate, utc_now_ms())
        often = 0.5 if sys.stderr.isatty() else 15
        with tqdm(total=int(options.rate * seconds), unit=" events", desc="acknowledged", mininterval=often) as line:
            self.line = line
            self.sender.run(deliveries(run, seconds, utc_now_ms))
        for timer in timers:
            timer.cancel()
        self.killer.stopping.set()
        troubles.switch_off(self.places)
        return time.monotonic() - began

    def _progress(self, outcome: Outcome, new_events: int) -> None:
        if self.line is not None:
            last = self.sampler.samples[-1] if self.sampler.samples else None
            shown = f"shown {last.shown}, queue {last.queued}, " if last else ""
            self.line.set_postfix_str(f"{shown}retries {outcome.retries}", refresh=False)
            self.line.update(new_events)

    def _queued(self) -> int:
        return self.sampler.samples[-1].queued if self.sampler.samples else 0

    def _shown(self) -> int:
        return sum(viewer.counts().total() for viewer in self.viewers["that stays"])

    def _agreed(self, began_ms: int) -> list[Row]:
        """The comparison, as soon as nothing differs, or else as it is when the patience is over."""
        say("Comparing ...")
        metric_of = Contracts.load(PROJECT / "schemas").metric_of
        until = time.monotonic() + AGREE_SECONDS
        while True:
            rows = compare(self.sender.sent, self._look(began_ms), metric_of)
            if not any(row.difference for row in rows) or time.monotonic() > until:
                return rows
            time.sleep(5)

    def _look(self, began_ms: int) -> Found:
        start_ms, end_ms = began_ms - (HOURS_BACK + 2) * HOUR_MS, utc_now_ms() + HOUR_MS
        in_flight(self.reader, self.found)
        found = Found(ledgers=self.found.ledgers)
        self.reader.lake(PROJECTS, found, start_ms)
        self.reader.metrics({*self.sender.sent.events, *found.rows}, found, start_ms, end_ms)
        fresh = [Viewer(self.stack.rest_url, project, False, Random(), self.notes) for project in PROJECTS]
        asyncio.run(look(fresh))
        for name, viewers in {**self.viewers, "that comes now": fresh}.items():
            found.dashboards[name] = Counter(
                {(each.project, metric): count for each in viewers for metric, count in each.counts().items()}
            )
        return found


async def look(viewers: Sequence[Viewer]) -> None:
    """Have each connect and show what there is."""
    watching = [asyncio.create_task(viewer.watch()) for viewer in viewers]
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOK_SECONDS):
            while not all(viewer.dashboard.shown for viewer in viewers):
                await asyncio.sleep(0.1)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


def say(text: str) -> None:
    """A line of the terminal."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when everything is exact and flat, 1 when it is not, 130 when it was stopped."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    say(f"seed {options.seed}: {options.rate:g} events/s for {options.minutes:g} minutes")
    try:
        stack = start_stack(options.folder / "state", LOCALCLOUD_PAUSES=json.dumps(troubles.PAUSES))
        try:
            say(f"REST {stack.rest_url}, state and logs in {stack.state}")
            return Soak(options, stack).run()
        finally:
            stack.stop()
    except KeyboardInterrupt:
        print("\nsoak: stopped, with all that it started; nothing was compared", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
