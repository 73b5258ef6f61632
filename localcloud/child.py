"""One child process of the supervisor: its two pipes, its log, and how it ends.

A child's standard input is a pipe that only the supervisor writes to: lines are commands, and its end means that the
supervisor is gone, however that happened. What a child reports (one JSON line) comes back through a second pipe.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from localcloud.places import PROJECT

REPORT_VARIABLE = "LOCALCLOUD_REPORT"  # the number of the descriptor that a child reports through
MAX_LOG_BYTES = 20_000_000  # then the log starts anew, and the old one is kept beside it


class Child:
    """A running process `python -m localcloud <name>`; `on_exit` and `on_report` are called from other threads."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        logs: Path,
        *,
        descriptors: tuple[int, ...] = (),
        on_report: Callable[["Child", dict[str, Any]], None],
        on_exit: Callable[["Child"], None],
        show: Callable[[str], None],
    ) -> None:
        self.name = name
        self.ready = False
        self.stopping = False
        self._show = show
        self._log = _open_log(logs / f"{name}.log")
        report_in, report_out = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "localcloud", name],
            cwd=PROJECT,
            env={**environ, REPORT_VARIABLE: str(report_out)},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.PIPE,
            pass_fds=(report_out, *descriptors),
            process_group=0,  # Ctrl-C reaches the supervisor alone, which then stops its children in order
        )
        os.close(report_out)
        threading.Thread(target=self._read_reports, args=(report_in, on_report), daemon=True).start()
        threading.Thread(target=self._wait, args=(on_exit,), daemon=True).start()

    def send(self, **command: Any) -> None:
        """Send one command; a child that is gone does not matter here, for its end is reported."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def stop(self, within_seconds: float) -> bool:
        """Ask it to end, and end it when it does not; whether it ended by itself."""
        self.ask_to_stop()
        try:
            self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True

    def ask_to_stop(self) -> None:
        """SIGTERM, which every child takes as a request."""
        self.stopping = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def _read_reports(self, descriptor: int, on_report: Callable[["Child", dict[str, Any]], None]) -> None:
        with open(descriptor, "rb") as reports:
            for line in reports:
                on_report(self, json.loads(line))

    def _wait(self, on_exit: Callable[["Child"], None]) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log.write(line)
            self._show(f"{self.name}: {line.decode(errors='replace').rstrip()}")
        self.process.wait()
        self._log.close()
        on_exit(self)


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return open(path, "ab", buffering=0)


# What runs in the child


def report(**message: Any) -> None:
    """Tell the supervisor something; without one, say nothing."""
    descriptor = os.environ.get(REPORT_VARIABLE)
    if descriptor:
        os.write(int(descriptor), json.dumps(message).encode() + b"\n")


def commands() -> "queue.SimpleQueue[dict[str, Any]]":
    """Return what the supervisor sends; {"stop": true} at SIGTERM and when the supervisor is gone."""
    received: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # its put() is safe in a signal handler

    def read() -> None:
        rest = b""
        while chunk := os.read(0, 65536):  # unbuffered: an object with a lock would be in the way at the exit
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                received.put(json.loads(line))
        received.put({"stop": True})

    signal.signal(signal.SIGTERM, lambda *_: received.put({"stop": True}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to handle
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if REPORT_VARIABLE in os.environ:
        threading.Thread(target=read, name="supervisor", daemon=True).start()
    return received
