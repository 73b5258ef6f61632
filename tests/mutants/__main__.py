"""Plant each bug of tests/mutants/ in a copy of the source tree, and run the tests, or the history, that are to fail.

Prints a line for each mutant, and at last how many were caught; fails when one survives. A catcher that fails without
any bug catches nothing, so all of them have to pass first.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from tests.mutants.catalogue import Misplaced, Mutant, catalogue
from tests.mutants.trees import PASS, Verdict, copy_tree, run_seed, run_seeds, run_tests

SHARES = 4  # of all tests, when they are run without a bug


@contextmanager
def copied(clean: Path) -> Iterator[Path]:
    """A copy of a source tree, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(clean, tree)
        yield tree


def catch(mutant: Mutant, clean: Path) -> tuple[Mutant, Verdict, float]:
    """Plant a mutant in a copy of its own, and run its catchers until one fails; with the seconds that it took.

    Where the seed that it names holds, one of some hundred has to break.
    """
    began = perf_counter()
    with copied(clean) as tree:
        try:
            mutant.plant(tree)
        except Misplaced as error:
            return mutant, Verdict(False, str(error)), 0.0
        found = run_tests(tree, mutant.caught_by) if mutant.caught_by else Verdict(False, "no test is named")
        if not found.failed and mutant.seed is not None:
            found = run_seed(tree, mutant.seed)
            found = found if found.failed else run_seeds(tree)
    return mutant, found, perf_counter() - began


def failures_of(clean: Path, mutants: Sequence[Mutant], pool: ThreadPoolExecutor) -> list[str]:
    """What the catchers say that do not pass though nothing is planted."""
    tests = sorted({test for mutant in mutants for test in mutant.caught_by})
    files = sorted({test.partition("::")[0] for test in tests})
    shares = [[test for test in tests if test.partition("::")[0] in files[n::SHARES]] for n in range(SHARES)]
    seeds = {mutant.seed for mutant in mutants if mutant.seed is not None}
    jobs = [pool.submit(partial(pass_tests, clean, share)) for share in shares if share]
    jobs += [pool.submit(partial(run_seed, clean, seed)) for seed in sorted(seeds)]
    done = tqdm(as_completed(jobs), total=len(jobs), desc="nothing planted", unit="run")
    return [job.result().why for job in done if job.result().failed]


def pass_tests(clean: Path, tests: Sequence[str]) -> Verdict:
    """Run tests that have to pass: anything else is a failure."""
    with copied(clean) as tree:
        found = run_tests(tree, tests)
    return Verdict(found.why != PASS, found.why)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those that have these words in their name or file")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    asked = parser.parse_args()
    mutants = [mutant for mutant in catalogue() if asked.only in mutant.name or asked.only in mutant.file]
    if asked.list:
        print(*(f"{mutant.file}: {mutant.name}" for mutant in mutants), sep="\n")
        return 0
    began, caught = perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as pool:
        clean = Path(folder) / "clean"
        copy_tree(clean)
        if failures := failures_of(clean, mutants, pool):
            print("these do not pass though nothing is planted:", *failures, sep="\n")
            return 2
        jobs = [pool.submit(partial(catch, mutant, clean)) for mutant in mutants]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="mutants", unit="mutant"):
            mutant, verdict, seconds = job.result()
            caught += verdict.failed
            word = "caught  " if verdict.failed else "SURVIVES"
            tqdm.write(f"{word} {mutant.file}: {mutant.name} ({seconds:.0f} s)\n         {verdict.why[:300]}")
    print(f"{caught} of {len(mutants)} caught, after {perf_counter() - began:.0f} s")
    return int(caught < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
