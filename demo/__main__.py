"""The demo's command line: `python -m demo`."""

import argparse
import http.client
import os
import re
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from tqdm import tqdm

from demo.client import Client, DemoError
from demo.counts import Counts, Row, table
from demo.sender import Outcome, Sender
from demo.traffic import LATE_DAYS, Run, batches

RUN_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-z]{1,32}")
OLDEST_RUN_DAYS = 30 - LATE_DAYS - 1  # the stack refuses events that are older than 30 days


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is 0 only if every event that was acknowledged is counted exactly once."""
    options = parser().parse_args(arguments)
    try:
        return demonstrate(options)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; what was sent was not compared", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the options; the environment gives their defaults, so that `make demo RATE=200` works."""
    env = os.environ
    made = argparse.ArgumentParser(
        prog="python -m demo",
        description="Send realistic traffic to a running stack, then compare what was sent with what it counts. "
        "The environment variables in capitals give the defaults.",
    )
    url = f"http://127.0.0.1:{env.get('PORT') or 8000}"
    add = made.add_argument
    add("--rate", type=positive, default=env.get("RATE") or "50", help="events per second; RATE (%(default)s)")
    add("--seconds", type=positive, default=env.get("SECONDS") or "60", help="how long; SECONDS (%(default)s)")
    add("--seed", type=int, default=env.get("SEED") or "1", help="which people and habits; SEED (%(default)s)")
    add("--run-id", default=env.get("RUN_ID") or "", help="repeat a run, event by event, as its first line names it")
    add("--url", default=env.get("TIDEMARK_URL") or url, help="the stack; TIDEMARK_URL (%(default)s)")
    add("--key", default=env.get("WRITE_KEY") or "demo-write", help="sends events; WRITE_KEY (%(default)s)")
    add("--read-key", default=env.get("READ_KEY") or "demo-read", help="reads counts; READ_KEY (%(default)s)")
    add("--patience", type=positive, default="120", help="seconds to wait for the counts at most (%(default)s)")
    add("--threads", type=int, default=8, help="requests at the same time (%(default)s)")
    return made


def positive(text: str) -> float:
    """Return a number above 0."""
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1000000")
    return value


def demonstrate(options: argparse.Namespace) -> int:
    """Send, wait, compare, tell."""
    now = datetime.now(UTC)
    run_id = options.run_id or f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    started_at = start_of(run_id, now)
    run = Run(options.seed, run_id, options.rate, int(started_at.timestamp() * 1000))
    with closing(reach(options.url)) as reader:
        counts = Counts(
            reader,
            options.read_key,
            shown(started_at - timedelta(days=LATE_DAYS, hours=1)),
            shown(now + timedelta(seconds=options.seconds, hours=1)),
        )
        plan = [batch.event_types for batch in batches(run, options.seconds) if not batch.duplicate]
        counts.steady()
        # Ids of a new run are new: only of a repeated one the stack may hold events already.
        known = counts.known(run.id_prefix) if options.run_id else Counter[str]()
        before = counts.by_type({kind for event_types in plan for kind in event_types.values()})

        told = f"{run.rate:g} events/s for {options.seconds:g} s to {options.url}"
        print(f"run {run_id}, seed {run.seed}: {told}", flush=True)
        outcome = send(run, options, planned=sum(map(len, plan)))
        print("Waiting for the counts ...", flush=True)
        sent = Counter(outcome.acknowledged.values())
        rows = counts.agreed(sent, known, before, patience_seconds=options.patience)
    print(f"\n{table(rows)}\n")
    return verdict(rows, outcome, options)


def start_of(run_id: str, now: datetime) -> datetime:
    """Return when a run began: its id says so, because a repeated run has to send the same times."""
    match = RUN_ID.fullmatch(run_id)
    try:
        started_at = datetime.strptime(match[1] if match else "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise DemoError(f"{run_id!r} is no run id; it is like {now:%Y%m%dT%H%M%SZ}-1a2b") from None
    if not timedelta() <= now - started_at <= timedelta(days=OLDEST_RUN_DAYS):
        raise DemoError(f"run {run_id} is not of the last {OLDEST_RUN_DAYS} days, and the stack refuses older events")
    return started_at


def reach(url: str) -> Client:
    """Return a connection to the stack; raises DemoError, naming the command that starts it, when nothing answers."""
    client = Client(url)
    try:
        answer = client.request("GET", "/health")
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"nothing answers at {url} ({error}); start the stack in another terminal: make run") from error
    if answer.status != 200:
        raise DemoError(f"GET {url}/health answers {answer.status}; is this Tidemark? start it with: make run")
    return client


def send(run: Run, options: argparse.Namespace, *, planned: int) -> Outcome:
    """Send all of the run under a line that shows how far it is."""
    often = 0.2 if sys.stderr.isatty() else 10  # a log does not want each change
    with tqdm(total=planned, unit=" events", desc="sent", dynamic_ncols=True, mininterval=often) as line:
        sender = Sender(options.url, options.key, threads=options.threads, progress=show(line))
        outcome = sender.send(batches(run, options.seconds))
        line.refresh()
    return outcome


def show(line: "tqdm[object]") -> Callable[[Outcome, int], None]:
    """Tells the progress line what the sender reports."""

    def progress(outcome: Outcome, new_events: int) -> None:
        line.set_postfix_str(
            f"acknowledged {len(outcome.acknowledged)}, duplicates {outcome.duplicates}, "
            f"retries {outcome.retries}, errors {len(outcome.failures) + len(outcome.rejected)}",
            refresh=False,
        )
        line.update(new_events)

    return progress


def verdict(rows: list[Row], outcome: Outcome, options: argparse.Namespace) -> int:
    """Say what the table means, and return the exit code."""
    wrong = [row for row in rows if row.difference]
    for reason, number in Counter(outcome.failures).most_common(5):
        print(f"not delivered: {number} requests, {reason}")
    for reason, number in Counter(outcome.rejected.values()).most_common(5):
        print(f"rejected: {number} events, {reason}")
    if wrong:
        print(
            f"{len(wrong)} of {len(rows)} counts differ after {options.patience:g} s. "
            "Did others send to the same project meanwhile?"
        )
    elif rows and not any(row.counted for row in rows):
        print("Nothing new was counted: every event of this run had been counted before.")
    elif rows:
        print(f"Exact: each of {sum(row.counted for row in rows)} events is counted once.")
    if outcome.duplicates:
        print(
            f"{outcome.duplicates} events were delivered twice on purpose, and {outcome.retries} requests were retried."
        )
    delivered = rows and not outcome.failures and not outcome.rejected
    return 0 if delivered and not wrong else 1


def shown(moment: datetime) -> str:
    """RFC 3339, in whole minutes."""
    return f"{moment:%Y-%m-%dT%H:%M}:00Z"


if __name__ == "__main__":
    sys.exit(main())
