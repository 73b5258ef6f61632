"""What an operator does to a running stack: `python -m ops` on the stage dev."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest

from infra.project import ROOT
from ops import stages
from ops.__main__ import main
from tests.localcloud.running import Stack

_clients_of: list[str] = []  # the cloud that the commands' clients are of: making one takes a process for its keys


def ops(stack: Stack, *words: str) -> Any:
    """What a command prints as JSON, run in this process: most of a new one's second is imports."""
    if _clients_of != [stack.cloud_url]:
        stages.client.cache_clear()
        _clients_of[:] = [stack.cloud_url]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in _surroundings(stack).items():
            patch.setenv(name, value)
        code = main([*words, "--stage", "dev", "--json"])
    assert code == 0, printed.getvalue()
    return json.loads(printed.getvalue())


def ops_process(stack: Stack, *words: str) -> Any:
    """The same as a process, as an operator runs it; for commands that set up a whole stage in their process, too."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "ops", *words, "--stage", "dev", "--json"],
        cwd=ROOT,
        env={**own, **_surroundings(stack)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _surroundings(stack: Stack) -> dict[str, str]:
    return {"TIDEMARK_STATE": str(stack.state), "AWS_ENDPOINT_URL": stack.cloud_url}
