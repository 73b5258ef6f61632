"""`python -m tests.simulation --seed 7` prints one history; `--seeds 5000` plays many, two at a time."""

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.simulation import entropy
from tests.simulation.playing import begin, play, play_all, tally

REGRESSIONS = Path(__file__).parent / "regressions"


def play_seeds(first: int, count: int, *, tell: bool) -> int:
    """Play the histories of many seeds; fails when one is broken, or when something rare was never reached."""
    from tests.simulation.sometimes import ENOUGH_SEEDS, unreached

    began = perf_counter()
    documents = [{"seed": seed} for seed in range(first, first + count)]
    broken, reached = tally(play_all(documents), count)
    print(f"{len(broken)} of {count} are broken, after {perf_counter() - began:.0f} s")
    for what, times in sorted(reached.items()) if tell else ():
        print(f"{times:6} {what}")
    never = unreached(reached)
    if count < ENOUGH_SEEDS or not never:
        return int(bool(broken))
    print(f"never reached in {count} seeds: {', '.join(never)}")
    return 1


def play_regressions() -> int:
    """Play what failed once; fails when it fails again."""
    documents = [json.loads(path.read_text())["options"] for path in sorted(REGRESSIONS.glob("*.json"))]
    broken, _ = tally(play_all(documents), len(documents))
    print(f"{len(broken)} of {len(documents)} fail again")
    return int(bool(broken))


def shrink(document: dict[str, Any]) -> int:
    """Make a history smaller, and keep it as a file."""
    from tests.simulation.options import Options
    from tests.simulation.shrink import shrunk

    outcome = shrunk(Options.from_json(document), lambda options: play(options.to_json()))
    if not outcome.broken:
        print("the history holds")
        return 0
    whole = replace(outcome.options, faults=asdict(replace(outcome.options, without=()).mix()))
    kept = {"wrong": outcome.broken, "options": asdict(whole)}  # whatever seeds draw later
    path = REGRESSIONS / f"{outcome.options.seed}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{outcome.broken}\n{path}")
    return 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play one history and print it")
    parser.add_argument("--options", type=json.loads, default={}, help="what differs from what the seed draws, as JSON")
    parser.add_argument("--quiet", action="store_true", help="print only what came of it")
    parser.add_argument(
        "--shrink", action="store_true", help="make the history smaller as long as it fails, and keep it"
    )
    parser.add_argument("--regressions", action="store_true", help="play what failed once: regressions/*.json")
    parser.add_argument("--reached", action="store_true", help="say what was reached in how many histories")
    parser.add_argument("--seeds", type=int, default=100, help="play so many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    asked = parser.parse_args()
    entropy.fix_hashes()
    if asked.regressions:
        return play_regressions()
    if asked.seed is None:
        return play_seeds(asked.first, asked.seeds, tell=asked.reached)
    begin()
    document = {"seed": asked.seed, **asked.options}
    if asked.shrink:
        return shrink(document)
    began = perf_counter()
    outcome = play(document, trace=not asked.quiet)
    print(outcome.options)
    print(f"{outcome.steps} steps, {outcome.calls} calls, {outcome.simulated_seconds / 3600:.1f} hours")
    print(f"{perf_counter() - began:.3f} s: {outcome.broken or 'holds'}")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    done = main()
    sys.stdout.flush()
    os._exit(done)  # at an ordinary end, threads of Arrow or DuckDB that still run now and then abort the process
