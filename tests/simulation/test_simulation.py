"""The simulation in processes of its own, because it replaces clocks and other sources of entropy."""

import subprocess
import sys

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


@pytest.mark.parametrize("seed", [4, 60475])
def test_a_seed_is_one_history_in_every_process(seed: int) -> None:
    played = [run("--seed", str(seed)) for _ in range(2)]

    first, second = (done.stdout.splitlines()[:-1] for done in played)  # the last says how long it took
    apart = next((pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]), None)
    assert apart is None
    assert len(first) == len(second) > 100, played
