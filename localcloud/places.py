"""Where the local cloud listens and where it keeps its state: read from the environment, in one place."""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
REGION = "us-east-1"
ACCOUNT = "000000000000"
STAGE = "dev"
PROJECT = Path(__file__).resolve().parent.parent


class LocalCloudError(Exception):
    """Something the developer can put right; its message says how, and is all that is shown."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one local cloud, all on the loopback interface."""

    rest: int
    websocket: int
    cloud: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Ports":
        """PORT, WS_PORT and CLOUD_PORT, or 8000, 8001 and 4566; raises LocalCloudError."""
        return cls(_port(environ, "PORT", 8000), _port(environ, "WS_PORT", 8001), _port(environ, "CLOUD_PORT", 4566))

    @property
    def cloud_url(self) -> str:
        """The endpoint of every AWS service."""
        return f"http://{HOST}:{self.cloud}"


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise LocalCloudError(f"{name} is {text!r}; it must be a port number from 1 to 65535")
    return int(text)


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one checkout's local cloud, outside of the checkout."""

    root: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Places":
        """TIDEMARK_STATE, or a folder of this checkout's own under the user's state folder."""
        if environ.get("TIDEMARK_STATE"):
            return cls(Path(environ["TIDEMARK_STATE"]).absolute())
        home = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        digest = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
        return cls(home / "tidemark" / f"{PROJECT.name}-{digest}")

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def services(self) -> Path:
        """What MiniStack itself may write, such as the code of functions."""
        return self.root / "services"

    @property
    def saved(self) -> Path:
        """The tables, queues, streams and everything else but objects, as of one moment."""
        return self.root / "state.json"

    @property
    def objects(self) -> Path:
        """S3: every object is a file here."""
        return self.root / "s3"

    @property
    def stack(self) -> Path:
        """The template that the resources were made from."""
        return self.root / "stack.json"

    @property
    def leases(self) -> Path:
        """One file for each process that a cloud started by `credentials` runs for."""
        return self.root / "leases"

    @property
    def faults(self) -> Path:
        """Which faults are wanted, while it is there: see faults.py."""
        return self.root / "faults.json"

    @property
    def running(self) -> Path:
        """What runs now: see Running."""
        return self.root / "running.json"

    def owned(self) -> list[Path]:
        """Return what is there of all that the local cloud ever writes."""
        known = (self.logs, self.services, self.objects, self.saved, self.stack, self.leases, self.running, self.faults)
        scratch = (self.root / "athena", *self.root.glob("*.draft"), *self.root.glob("*.lock"))
        return [path for path in (*known, *scratch) if path.exists()]

    def lock(self, name: str) -> int | None:
        """A lock's file descriptor, or None while another process holds it; it is free again when all copies close."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


@dataclass(frozen=True, slots=True)
class Running:
    """What a supervisor tells of itself: its process, how it was started and whether it is ready."""

    pid: int
    leased: bool  # started by `credentials`, and ends with the processes it was started for
    state: str  # starting, ready or stopping
    ports: Ports
    children: dict[str, int]

    def write(self, places: Places) -> None:
        """Replace the file in one step."""
        draft = places.running.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(places.running)

    @classmethod
    def read(cls, places: Places) -> "Running | None":
        """Return what runs now; None when nothing does."""
        try:
            document: dict[str, Any] = json.loads(places.running.read_text())
        except FileNotFoundError:
            return None
        if not alive(document["pid"]):
            return None
        return cls(**{**document, "ports": Ports(**document["ports"])})


def alive(pid: int) -> bool:
    """Return whether a process exists (a zombie of another parent counts as gone)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def listen(port: int, variable: str) -> socket.socket:
    """Return a listening socket that child processes inherit; raises LocalCloudError when the port is taken."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen(1024)
    except OSError as error:
        server.close()
        raise LocalCloudError(
            f"port {port} ({variable}) cannot be used: {error.strerror}. "
            f"Stop what listens there, or choose another: {variable}={port + 10} make run"
        ) from error
    return server
