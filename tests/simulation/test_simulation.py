"""The simulation in processes of its own, because it replaces clocks and other sources of entropy."""

import subprocess
import sys
from hashlib import sha256

import pytest

FIXED_SEEDS = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.simulation …`."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_fixed_set_of_histories_holds() -> None:
    done = run("--seeds", str(FIXED_SEEDS))

    assert done.returncode == 0, done.stdout[-5000:]


def test_what_failed_once_holds() -> None:
    done = run("--regressions")

    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("seed", [4, 13])
def test_a_seed_is_one_history_in_every_process(seed: int) -> None:
    traces = [run("--seed", str(seed)).stdout for _ in range(2)]

    first, second = (sha256("\n".join(trace.splitlines()[:-1]).encode()).hexdigest() for trace in traces)
    assert len(traces[0].splitlines()) > 100
    assert first == second
