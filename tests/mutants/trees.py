"""Copies of the source tree in which catchers run: a named test, or a history of the simulation."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.mutants.catalogue import ROOT

SEEDS = 300  # of the simulation, one of which has to break where the named one does no more
TIMEOUT_SECONDS = 900  # of one catcher: what hangs catches nothing
# A mutant that only crashes proves nothing: any test of the file would see it.
CRASHES = (
    *("ImportError", "ModuleNotFoundError", "SyntaxError"),
    *("NameError", "UnboundLocalError", "AttributeError", "TypeError"),
)
# Without plugins that take longer to load than most catchers take.
LIGHT = ("-x", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio", "-p", "no:xdist")
BROKEN = re.compile(r"^seed (\d+): (.+)$", re.MULTILINE)
ENDED = re.compile(r"^\d+\.\d+ s: (.+)$", re.MULTILINE)  # the last line of a history
HOLDS, PASS = "holds", "its tests pass"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a catcher says; `why` is its reason, of a mutant that was not caught what it said instead."""

    failed: bool
    why: str


def copy_tree(target: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    # Compiled once, for all copies of this copy.
    run(target, ["-m", "compileall", "-q", "chalicelib", "tests", "localcloud"])


def run(tree: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python in a tree."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def run_tests(tree: Path, tests: Sequence[str]) -> Verdict:
    """Run named tests: whether one fails by what it asserts, and not because the code cannot be run at all."""
    report = tree / "report.xml"
    try:
        done = run(tree, ["-m", "pytest", *LIGHT, f"--junitxml={report}", *tests])
    except subprocess.TimeoutExpired:
        return Verdict(False, f"it was not over after {TIMEOUT_SECONDS} s")
    if done.returncode not in (0, 1) or not report.exists():
        return Verdict(False, f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
    cases = ElementTree.parse(report).iter("testcase")
    problems = [
        (case.get("name", ""), kind, each)
        for case in cases
        for kind in ("failure", "error")
        for each in case.iter(kind)
    ]
    for name, kind, problem in problems:
        words = problem.get("message", "").strip()
        if kind == "failure" and not words.startswith(CRASHES):
            return Verdict(True, f"{name}: {words.splitlines()[0] if words else 'it failed'}")
    if problems:
        return Verdict(False, f"it crashes, which any test would see: {problems[0][2].get('message', '')[:300]}")
    return Verdict(False, PASS)


def run_seed(tree: Path, seed: int) -> Verdict:
    """Play one history: whether an oracle finds it broken."""
    try:
        done = run(tree, ["-m", "tests.simulation", "--seed", str(seed), "--quiet"])
    except subprocess.TimeoutExpired:
        return Verdict(False, f"seed {seed} was not over after {TIMEOUT_SECONDS} s")
    ended = ENDED.search(done.stdout)
    if ended is None:
        return Verdict(False, f"the simulation ended with {done.returncode}: {done.stderr[-600:]}")
    return Verdict(ended[1] != HOLDS and not _is_crash(ended[1]), f"seed {seed}: {ended[1]}")


def run_seeds(tree: Path) -> Verdict:
    """Play SEEDS histories: whether an oracle finds one broken."""
    try:
        done = run(tree, ["-m", "tests.simulation", "--seeds", str(SEEDS)])
    except subprocess.TimeoutExpired:
        return Verdict(False, f"{SEEDS} seeds were not over after {TIMEOUT_SECONDS} s")
    for seed, why in BROKEN.findall(done.stdout):
        if not _is_crash(why):
            return Verdict(True, f"seed {seed}: {why}")
    return Verdict(False, f"{SEEDS} seeds hold")


def _is_crash(why: str) -> bool:
    return any(f"{name}:" in why or f"{name}(" in why for name in CRASHES)
