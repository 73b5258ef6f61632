"""Makes a history that fails smaller, as long as it fails in the same way: fewer faults, requests and readers."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.simulation.history import Outcome
from tests.simulation.options import Options

Play = Callable[[Options], Outcome]
MOST_TRIES = 200


def shrunk(options: Options, play: Play) -> Outcome:
    """The smallest history found that is broken as this one is."""
    best = play(options)
    wrong, tries = kind_of(best.broken), 0
    found = True
    while found and tries < MOST_TRIES:
        found = False
        for smaller in _smaller(best.options):
            tries += 1
            outcome = play(smaller)
            if outcome.broken and kind_of(outcome.broken) == wrong:
                best, found = outcome, True
                break
            if tries >= MOST_TRIES:
                break
    return best


def kind_of(broken: str) -> str:
    """What is wrong, without its numbers and names."""
    return re.sub(r"[\d{(].*", "", broken)[:40]


def _smaller(options: Options) -> Iterator[Options]:
    """Each a step smaller, the larger steps first."""
    kinds = options.mix().kinds()
    for share in (kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]):
        if len(kinds) > 3:
            yield replace(options, without=(*options.without, *share))
    left = [number for number in range(options.requests) if number not in options.dropped]
    for half in (left[: len(left) // 2], left[len(left) // 2 :]):
        if len(left) > 3:
            yield replace(options, dropped=(*options.dropped, *half))
    for name in ("readers", "sockets", "erasures", "imports"):
        if getattr(options, name):
            nobody: dict[str, Any] = {name: 0}
            yield replace(options, **nobody)
    if options.bounds:
        yield replace(options, bounds={})
        for name in options.bounds:
            yield replace(options, bounds={each: value for each, value in options.bounds.items() if each != name})
    most = 64 if options.faults_until is None else options.faults_until
    for fewer in (0, most // 4, most // 2, most - 1):
        if 0 <= fewer < most or options.faults_until is None:
            yield replace(options, faults_until=fewer)
    for kind in kinds:
        yield replace(options, without=(*options.without, kind))
    for number in left:
        yield replace(options, dropped=(*options.dropped, number))
