"""`python -m tests.simulation --seed 7` prints one history; `--seeds 5000` plays many, two at a time."""

import argparse
import json
import sys
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.simulation import entropy

REGRESSIONS = Path(__file__).parent / "regressions"
PROCESSES = 2


def play(document: dict[str, Any], *, trace: bool = False) -> Any:
    """Play the history of these options."""
    from tests.simulation.history import History
    from tests.simulation.options import Options
    from tests.simulation.trace import Trace

    options = Options.from_json(document)
    return History(options, loaded(), Trace(sys.stdout if trace else None)).play()


_app: Any = None


def loaded() -> Any:
    """The app, imported once per process."""
    global _app
    if _app is None:
        import os

        from tests.simulation import resources
        from tests.simulation.containers import load

        os.environ.update(resources.environment())
        _app = load()
    return _app


def begin() -> None:
    """Of a process."""
    entropy.install()
    loaded()


def many(first: int, count: int) -> int:
    """Play many, and say which are broken."""
    from tqdm import tqdm

    broken, reached, began = [], Counter[str](), perf_counter()
    seeds = [{"seed": seed} for seed in range(first, first + count)]
    with get_context("spawn").Pool(PROCESSES, begin) as pool:
        for outcome in tqdm(pool.imap_unordered(play, seeds, 4), total=count, unit="seed"):
            reached += outcome.reached
            if outcome.broken:
                broken.append(outcome)
                tqdm.write(f"seed {outcome.options.seed}: {outcome.broken[:300]}")
    print(f"{len(broken)} of {count} are broken, after {perf_counter() - began:.0f} s")
    return 1 if broken else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play one history and print it")
    parser.add_argument("--options", type=json.loads, default={}, help="what differs from what the seed draws, as JSON")
    parser.add_argument("--quiet", action="store_true", help="print only what came of it")
    parser.add_argument("--seeds", type=int, default=100, help="play so many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    asked = parser.parse_args()
    entropy.settle_hashes()
    if asked.seed is None:
        return many(asked.first, asked.seeds)
    entropy.install()
    loaded()
    began = perf_counter()
    outcome = play({"seed": asked.seed, **asked.options}, trace=not asked.quiet)
    print(outcome.options)
    print(f"{outcome.steps} steps, {outcome.calls} calls, {outcome.simulated_seconds / 3600:.1f} hours")
    print(f"{perf_counter() - began:.3f} s: {outcome.broken or 'holds'}")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
