"""Answers the SDK's credential_process: makes sure that a cloud is there for `chalice local`, started when it is not.

The environment that names the profile is all the app has to do with it. A cloud started here is leased: it ends some
seconds after the last process that it was started for.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from localcloud.child import REPORT_VARIABLE
from localcloud.places import PROJECT, LocalCloudError, Places, Ports, Running, alive

START_SECONDS = 60.0


def print_credentials(places: Places) -> int:
    """Print the credentials once a cloud answers at the endpoint; raises LocalCloudError."""
    if REPORT_VARIABLE not in os.environ:  # a part of the cloud itself needs none other
        endpoint = _endpoint()
        if not (_healthy(endpoint) and _stays(places)):
            _start(places, endpoint)
    print(json.dumps({"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test"}))
    return 0


def leaseholders(places: Places) -> list[int]:
    """Return the processes that a leased cloud runs for; what is left of others is removed."""
    living = []
    for path in places.leases.glob("*"):
        if path.name.isdecimal() and alive(int(path.name)):
            living.append(int(path.name))
        else:
            path.unlink(missing_ok=True)
    return living


def _endpoint() -> str:
    ports = Ports.from_environment(os.environ)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None and os.environ.get("CLOUD_PORT") and ports.cloud != 4566:
        raise LocalCloudError(
            f"CLOUD_PORT is {ports.cloud}, but the SDK reads its endpoint from .chalice/aws-local, which says 4566; "
            f"set AWS_ENDPOINT_URL={ports.cloud_url} too"
        )
    return endpoint or ports.cloud_url


def _healthy(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_ministack/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stays(places: Places) -> bool:
    """Return whether the healthy cloud will stay: one that is leased gets a lease more, unless it is ending already."""
    running = Running.read(places)
    if running is None or not running.leased:
        return True
    lock = _wait_for_lock(places)
    try:
        running = Running.read(places)
        if running is None or running.state != "ready":
            return False
        _take_lease(places)
        return True
    finally:
        os.close(lock)


def _start(places: Places, endpoint: str) -> None:
    """Start a cloud, or wait for one that is starting or ending."""
    until = time.monotonic() + START_SECONDS
    lock = _wait_for_lock(places)
    try:
        while (running := Running.read(places)) is not None and time.monotonic() < until:
            if running.state == "ready":
                if _healthy(endpoint):
                    _take_lease(places)
                    return
                raise LocalCloudError(
                    f"a local cloud runs at {running.ports.cloud_url}, and the SDK looks for it at {endpoint}; "
                    f"set AWS_ENDPOINT_URL={running.ports.cloud_url}"
                )
            time.sleep(0.1)
        _take_lease(places)
        log = places.logs / "supervisor.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        port = urllib.parse.urlsplit(endpoint).port or 80
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "localcloud", "run", "--no-rest", "--leased"],
                cwd=PROJECT,
                # `chalice local` takes any file that appears in the checkout, a compiled module too, for a change.
                env={**os.environ, "CLOUD_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while time.monotonic() < until:
            running = Running.read(places)
            if running is not None and running.pid == process.pid and running.state == "ready":
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise LocalCloudError(f"the local cloud did not start; {log} ends so:\n{tail}")
    finally:
        os.close(lock)


def _wait_for_lock(places: Places) -> int:
    """Only one process starts a cloud; the others wait here until it is up."""
    until = time.monotonic() + START_SECONDS
    while (lock := places.lock("start")) is None:
        if time.monotonic() > until:
            raise LocalCloudError(f"another process has been starting a local cloud for {START_SECONDS:.0f} s")
        time.sleep(0.05)
    return lock


def _take_lease(places: Places) -> None:
    """For the process that asked, and for the `chalice local` above it, whose worker is replaced at every change."""
    places.leases.mkdir(parents=True, exist_ok=True)
    asking = os.getppid()
    for pid in [asking, *_chalice_ancestors(asking)]:
        (places.leases / str(pid)).touch()


def _chalice_ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # no such process, or a system without /proc
            listed = subprocess.run(["ps", "-o", "ppid=,command=", "-p", str(pid)], capture_output=True, text=True)
            if not listed.stdout.strip():
                break
            first, *rest = listed.stdout.split()
            parent, command = int(first), [word.encode() for word in rest]
        if b"local" in command and any(word.rpartition(b"/")[2] == b"chalice" for word in command):
            found.append(pid)
        pid = parent
    return found
