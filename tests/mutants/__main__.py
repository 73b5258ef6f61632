"""`python -m tests.mutants` plants each bug of the catalogue in a copy of the source tree, and runs who catches it.

Prints a line for each mutant, and at last how many were caught; fails when one survives. A catcher that fails without
any bug catches nothing, so all of them have to pass first.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from tests.mutants.catalogue import Misplaced, Mutant, catalogue
from tests.mutants.trees import Verdict, copy_tree, run_seed, run_seeds, run_tests


def catch(mutant: Mutant, clean: Path, *, search: bool = False) -> Verdict:
    """Plant a mutant in a copy of its own, and run its catchers until one fails.

    Where the named seed holds, or with `search` and no seed, one of some hundred has to break.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(clean, tree)
        try:
            mutant.plant(tree)
        except Misplaced as error:
            return Verdict(False, str(error))
        found = Verdict(False, "it names no catcher")
        if mutant.caught_by:
            found = run_tests(tree, mutant.caught_by)
        if not found.failed and mutant.seed is not None:
            found = run_seed(tree, mutant.seed)
        if not found.failed and (mutant.seed is not None or search):
            found = run_seeds(tree)
        return found


def failures_of(clean: Path, mutants: Sequence[Mutant], pool: ThreadPoolExecutor) -> list[str]:
    """What fails of all catchers though nothing is planted."""
    tests = sorted({test for mutant in mutants for test in mutant.caught_by})
    seeds = sorted({mutant.seed for mutant in mutants if mutant.seed is not None})
    files = [list(group) for _, group in groupby(tests, key=lambda test: test.partition("::")[0])]
    shares = [[test for file in files[number::SHARES] for test in file] for number in range(SHARES)]
    jobs: list[Callable[[], Verdict]] = [lambda share=share: _pass(clean, share) for share in shares if share]  # type: ignore[misc]
    jobs += [lambda seed=seed: run_seed(clean, seed) for seed in seeds]  # type: ignore[misc]
    done = tqdm(pool.map(lambda job: job(), jobs), total=len(jobs), desc="nothing planted", unit="run")
    return [verdict.why for verdict in done if verdict.failed]


SHARES = 4  # of the tests without a bug


def _pass(clean: Path, tests: Sequence[str]) -> Verdict:
    """Run tests that have to pass; another word than that they do is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(clean, tree)
        found = run_tests(tree, tests)
    return Verdict(found.why != "its tests pass", found.why)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name or file has these words in it")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    parser.add_argument("--search", action="store_true", help="let the simulation look for those that no test catches")
    parser.add_argument("--trust", action="store_true", help="do not run the catchers without a bug first")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    asked = parser.parse_args()
    mutants = [each for each in catalogue() if asked.only in each.name or asked.only in each.file]
    if asked.list:
        print(*(f"{each.file}: {each.name}" for each in mutants), sep="\n")
        return 0
    began, survivors = perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        clean = Path(folder) / "clean"
        copy_tree(clean)
        if not asked.trust and (failures := failures_of(clean, mutants, pool)):
            print("these fail though nothing is planted:", *failures, sep="\n")
            return 2
        bar = tqdm(total=len(mutants), unit="mutant")

        def one(mutant: Mutant) -> tuple[Mutant, Verdict, float]:
            started = perf_counter()
            return mutant, catch(mutant, clean, search=asked.search), perf_counter() - started

        for mutant, verdict, seconds in pool.map(one, mutants):
            word = "caught  " if verdict.failed else "SURVIVES"
            survivors += not verdict.failed
            bar.write(f"{word} {mutant.file}: {mutant.name} ({seconds:.0f} s)\n         {verdict.why[:200]}")
            bar.update()
        bar.close()
    print(f"{len(mutants) - survivors} of {len(mutants)} caught, after {perf_counter() - began:.0f} s")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
