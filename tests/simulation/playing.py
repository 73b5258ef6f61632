"""Plays histories, in this process or in several: each imports the app once."""

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

from tests.simulation import entropy

PROCESSES = 2
PLAYED_BEFORE_COLLECTING = 16
_app: Any = None
_played = 0


def begin() -> None:
    """Make this process one that can play: nothing may have imported the app before."""
    global _app
    entropy.install()
    from tests.simulation import resources
    from tests.simulation.containers import load

    os.environ.update(resources.environment())
    _app = load()
    gc.collect()
    gc.freeze()
    gc.disable()  # what is collected when depends on more than the seed; `play` does it between histories


def play(document: dict[str, Any], *, trace: bool = False) -> Any:
    """Play the history of these options."""
    from tests.simulation.history import History
    from tests.simulation.options import Options
    from tests.simulation.trace import Trace

    global _played
    _played += 1
    if _played % PLAYED_BEFORE_COLLECTING == 0:
        gc.collect()
    return History(Options.from_json(document), _app, Trace(sys.stdout if trace else None)).play()


def play_all(documents: list[dict[str, Any]]) -> Iterator[Any]:
    """Play many at the same time; their outcomes as they come."""
    with get_context("spawn").Pool(PROCESSES, begin) as pool:
        yield from pool.imap_unordered(play, documents, 4)


def tally(outcomes: Iterator[Any], total: int) -> tuple[list[Any], Counter[str]]:
    """Those that are broken, which are told of at once; and in how many histories something was reached."""
    from tqdm import tqdm

    broken, reached = [], Counter[str]()
    for outcome in tqdm(outcomes, total=total, unit="seed"):
        reached.update(set(outcome.reached))
        if outcome.broken:
            broken.append(outcome)
            tqdm.write(f"seed {outcome.options.seed}: {outcome.broken[:300]}")
    return broken, reached
