"""`.ci/run` where something is missing or fails: stand-ins for make, the environment and the machine's own tools."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from infra.project import ROOT

TOOLS = ("bash", "cat", "dirname", "mkdir", "mktemp", "rm", "seq", "setsid", "sleep", "sh", "tail")
LOGGED = 'until [ -s "$TIDEMARK_STATE/logs/functions.log" ]; do sleep 0.05; done'
MAKE = """
case $1 in
  run) mkdir -p "$TIDEMARK_STATE/logs"; echo 'no module named sketches' >"$TIDEMARK_STATE/logs/functions.log"; {run};;
  demo) {demo};;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout, and a PATH of its own in `bin`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, f"this test needs {name}"
        (tmp_path / "bin" / name).symlink_to(found)
    for name in ("python3", "node", "npm", "chromium", "apt-get"):
        tool(tmp_path, f"bin/{name}", "exit 0")
    tool(tmp_path, "bin/id", "echo 1000")
    tool(tmp_path, ".venv/bin/python", f"{LOGGED}; exit 0")
    tool(tmp_path, "bin/make", MAKE.format(run="exec sleep 60", demo="exit 0"))
    return tmp_path


def tool(machine: Path, name: str, script: str) -> None:
    """A program of one shell script."""
    path = machine / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def ci(machine: Path) -> "subprocess.CompletedProcess[str]":
    """Run it; both outputs are in `stdout`."""
    temporary = machine / "tmp"
    temporary.mkdir()
    return subprocess.run(
        [machine / "bin" / "bash", ".ci/run"],
        cwd=machine,
        env={"PATH": str(machine / "bin"), "TMPDIR": str(temporary), "READY_SECONDS": "1", "HOME": os.environ["HOME"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_steps_run_and_nothing_is_left(machine: Path) -> None:
    done = ci(machine)

    assert done.returncode == 0, done.stdout
    steps = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    [fresh] = [line for line in steps if line.startswith("== make simulate")]
    assert 0 <= time.time() - int(fresh.rpartition("=")[2]) < 3600  # by the clock: other histories each time
    assert steps == [
        "== make setup",
        "== npm ci in tests/sdks",
        "== make run, make demo",
        "== make bench",
        fresh,
        "== make package",
        "== make check",
        "== make test-slow",
    ]
    assert list((machine / "tmp").iterdir()) == []


def test_a_demo_that_fails_shows_the_end_of_the_stacks_logs(machine: Path) -> None:
    tool(machine, "bin/make", MAKE.format(run="exec sleep 60", demo="exit 1"))

    done = ci(machine)

    assert done.returncode != 0
    assert "functions.log" in done.stdout
    assert "no module named sketches" in done.stdout
    assert list((machine / "tmp").iterdir()) == []


def test_a_stack_that_is_never_ready_is_said_to_be_that(machine: Path) -> None:
    tool(machine, ".venv/bin/python", f"{LOGGED}; exit 3")

    done = ci(machine)

    assert done.returncode != 0
    assert "error: make run is not ready after 1 s" in done.stdout
    assert "no module named sketches" in done.stdout


def test_a_stack_that_ends_at_once_is_said_to_have_ended(machine: Path) -> None:
    tool(machine, "bin/make", MAKE.format(run="exit 1", demo="exit 0"))
    tool(machine, ".venv/bin/python", f"{LOGGED}; exit 3")

    done = ci(machine)

    assert done.returncode != 0
    assert "error: make run ended before it was ready" in done.stdout
    assert "no module named sketches" in done.stdout


def test_whoever_is_not_root_installs_with_sudo(machine: Path) -> None:
    tool(machine, "bin/sudo", 'echo "sudo $*"; exec "$@"')
    (machine / "bin" / "node").unlink()

    done = ci(machine)

    assert done.returncode == 0, done.stdout
    assert "sudo apt-get update" in done.stdout
    assert "--no-install-recommends nodejs\n" in done.stdout


def test_root_installs_without_sudo(machine: Path) -> None:
    tool(machine, "bin/id", "echo 0")
    tool(machine, "bin/apt-get", 'echo "apt-get $*"')
    (machine / "bin" / "node").unlink()

    done = ci(machine)

    assert done.returncode == 0, done.stdout
    assert "--no-install-recommends nodejs\n" in done.stdout


@pytest.mark.parametrize("lacking", ["sudo", "apt-get"])
def test_where_nothing_can_be_installed_the_message_names_the_package(machine: Path, lacking: str) -> None:
    tool(machine, "bin/sudo", 'exec "$@"')
    (machine / "bin" / lacking).unlink()
    (machine / "bin" / "node").unlink()

    done = ci(machine)

    assert done.returncode != 0
    assert f"error: there is no {lacking} to install with. Install yourself: nodejs" in done.stdout
