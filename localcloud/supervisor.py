"""Keeps the local cloud's processes running: starts them in order, restarts the app's on a change, stops them all."""

import os
import queue
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from localcloud.child import Child
from localcloud.credentials import leaseholders
from localcloud.environment import app_environment, chosen_buffer, cloud_environment
from localcloud.places import HOST, LocalCloudError, Places, Ports, Running, listen
from localcloud.watcher import watch_sources

RESTART_SECONDS = (0.1, 0.5, 2.0, 5.0, 15.0)  # between a child's death and its next start; the last one stays
STEADY_SECONDS = 20.0  # a child that ran this long starts over with the first of them
STOP_SECONDS = {"rest": 6.0, "functions": 6.0, "cloud": 60.0}
LEASE_SECONDS = 5.0  # how long a cloud without leaseholders goes on
HEALTH_SECONDS = 30.0


def supervise(places: Places, *, rest: bool, leased: bool) -> int:
    """Run until a signal, or until the cloud dies (exit code 1)."""
    chosen_buffer()  # before anything is started
    supervisor = Supervisor(places, Ports.from_environment(os.environ), rest=rest, leased=leased)
    return supervisor.run()


@dataclass
class Slot:
    """A child that is to be kept running."""

    name: str
    child: Child | None = None
    started_at: float = 0.0
    deaths: int = 0
    due_at: float | None = None


@dataclass
class Supervisor:
    """The loop takes what happens from one queue: ends of children, their reports, changes of files, signals."""

    places: Places
    ports: Ports
    rest: bool
    leased: bool
    events: "queue.SimpleQueue[tuple[str, Any]]" = field(default_factory=queue.SimpleQueue)
    slots: dict[str, Slot] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    state: str = "starting"
    unleased_at: float | None = None

    def run(self) -> int:
        """Start, watch, stop; the exit code."""
        lock = self.places.lock("cloud")
        if lock is None:
            raise LocalCloudError(self._busy())
        self._open_sockets()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _frame: self.events.put(("signal", received)))
        self.slots = {name: Slot(name) for name in ("cloud", "functions", *(["rest"] if self.rest else []))}
        self._say(f"starting; state and logs are in {self.places.root}")
        failed = True
        try:
            self._start("cloud", lock)
            watch_sources(lambda paths: self.events.put(("changed", paths)))
            failed = self._loop()
        finally:
            self._stop_all()
        return 1 if failed else 0

    def _busy(self) -> str:
        running = Running.read(self.places)
        if running is None:
            return f"another local cloud is starting or ending on {self.places.root}; try again in a moment"
        if running.leased:
            whose = "It was started for `chalice local`, and ends some seconds after that does"
        else:
            whose = "Stop it with Ctrl-C there"
        return (
            f"a local cloud runs already (process {running.pid}, {running.ports.cloud_url}) on {self.places.root}. "
            f"{whose}; or give this one a state of its own: TIDEMARK_STATE=/some/folder, with other ports"
        )

    def _open_sockets(self) -> None:
        self.cloud_socket = listen(self.ports.cloud, "CLOUD_PORT")
        self.websocket_socket = listen(self.ports.websocket, "WS_PORT")
        self.rest_socket = listen(self.ports.rest, "PORT") if self.rest else None
        # Bound, but not listening: it keeps the port, and a connection is refused while the functions are down.
        self.functions_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.functions_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.functions_socket.bind((HOST, 0))
        self.functions_port = self.functions_socket.getsockname()[1]

    # The loop

    def _loop(self) -> bool:
        """True when it ended because the cloud died."""
        while True:
            try:
                kind, value = self.events.get(timeout=0.2)
            except queue.Empty:
                kind, value = "tick", None
            if kind == "signal":
                return False
            if kind == "exit" and self._ended(value):
                return True
            if kind == "report":
                self._reported(*value)
            if kind == "changed" and self.outputs:
                self._reload(value)
            if kind == "healthy" and self.state == "starting":  # twice, when a source changed meanwhile
                self._ready()
            for slot in self.slots.values():
                if slot.due_at is not None and time.monotonic() >= slot.due_at:
                    self._start(slot.name)
            if self.leased and self._unleased():
                self._say("no process uses this cloud any more")
                return False

    def _start(self, name: str, *descriptors: int) -> None:
        environ = {**cloud_environment(self.ports, self.places), "LOCALCLOUD_FUNCTIONS_PORT": str(self.functions_port)}
        if name == "cloud":
            environ["LOCALCLOUD_CLOUD_SOCKET"] = str(self.cloud_socket.fileno())
            environ["LOCALCLOUD_WEBSOCKET_SOCKET"] = str(self.websocket_socket.fileno())
            descriptors = (*descriptors, self.cloud_socket.fileno(), self.websocket_socket.fileno())
        else:
            environ |= app_environment(self.ports, self.outputs)
        if name == "rest" and self.rest_socket is not None:
            environ["LOCALCLOUD_REST_SOCKET"] = str(self.rest_socket.fileno())
            descriptors = (self.rest_socket.fileno(),)
        slot = self.slots[name]
        slot.due_at, slot.started_at = None, time.monotonic()
        slot.child = Child(
            name,
            environ,
            self.places.logs,
            descriptors=descriptors,
            on_report=lambda child, message: self.events.put(("report", (child, message))),
            on_exit=lambda child: self.events.put(("exit", child)),
            show=self._show,
        )
        self._write_running()

    def _ended(self, child: Child) -> bool:
        """A child is gone; True when that ends everything."""
        slot = self.slots[child.name]
        if child.stopping or slot.child is not child:
            return False
        code = child.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if child.name == "cloud":
            log = self.places.logs / "cloud.log"
            self._say(f"the cloud process {how}, so everything stops; its log is {log}")
            return True
        if time.monotonic() - slot.started_at > STEADY_SECONDS:
            slot.deaths = 0
        delay = RESTART_SECONDS[min(slot.deaths, len(RESTART_SECONDS) - 1)]
        slot.deaths += 1
        slot.child, slot.due_at = None, time.monotonic() + delay
        when = "now" if delay < 1 else f"in {delay:.0f} s, or when a source file changes"
        self._say(f"the {child.name} process {how}; it starts again {when}")
        return False

    def _reported(self, child: Child, message: dict[str, Any]) -> None:
        slot = self.slots[child.name]
        if slot.child is not child:
            return
        child.ready = True
        if child.name == "cloud" and "outputs" in message:
            self.outputs = message["outputs"]
            for name in self.slots.keys() - {"cloud"}:
                self._start(name)
        if child.name == "functions":
            cloud = self.slots["cloud"].child
            assert cloud is not None
            cloud.send(triggers=message["triggers"], timeouts=message["timeouts"])
        if self.state == "starting" and all(slot.child and slot.child.ready for slot in self.slots.values()):
            threading.Thread(target=self._await_health, daemon=True).start()
        elif self.state == "ready":
            self._say(f"{child.name} is ready again")

    def _await_health(self) -> None:
        until = time.monotonic() + HEALTH_SECONDS
        while self.rest and not self._healthy():
            if time.monotonic() > until:
                self._say(f"GET /health does not answer 200; see {self.places.logs / 'rest.log'}")
                break
            time.sleep(0.1)
        self.events.put(("healthy", None))

    def _healthy(self) -> bool:
        request = urllib.request.Request(f"http://{HOST}:{self.ports.rest}/health", headers={"Accept": "*/*"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _ready(self) -> None:
        self.state = "ready"
        if self.rest:
            print(banner(self.ports, self.places), flush=True)
        else:
            self._say(f"the cloud is ready at {self.ports.cloud_url}")
        self._write_running()  # last: who waits for it may look for the banner

    def _reload(self, paths: list[str]) -> None:
        named = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        self._say(f"{named} changed; restarting the app")
        app = [slot for name, slot in self.slots.items() if name != "cloud"]
        for slot in app:
            if slot.child:
                slot.child.ask_to_stop()
        for slot in app:
            if slot.child:
                slot.child.stop(STOP_SECONDS[slot.name])
            slot.deaths = 0
            self._start(slot.name)

    def _unleased(self) -> bool:
        """Whether all leaseholders have been gone for a while; decided under the lock that `credentials` holds too."""
        if self.state != "ready" or leaseholders(self.places):
            self.unleased_at = None
            return False
        self.unleased_at = self.unleased_at or time.monotonic()
        if time.monotonic() - self.unleased_at < LEASE_SECONDS:
            return False
        lock = self.places.lock("start")
        if lock is None:
            return False
        try:
            if leaseholders(self.places):
                return False
            self.state = "stopping"
            self._write_running()
            return True
        finally:
            os.close(lock)

    # The end

    def _stop_all(self) -> None:
        """Stop accepting, let the triggers finish what was accepted, save, end."""
        self.state = "stopping"
        self._write_running()
        cloud = self.slots["cloud"].child
        if cloud is not None and cloud.process.poll() is None:
            self._say("stopping: finishing what was accepted, then saving (Ctrl-C again: save at once)")
        threading.Thread(target=self._hurry, daemon=True).start()
        if self.rest_socket:
            self.rest_socket.close()
        for name in ("rest", "cloud", "functions"):
            child = self.slots[name].child if name in self.slots else None
            if child is not None and not child.stop(STOP_SECONDS[name]):
                self._say(f"the {name} process did not end within {STOP_SECONDS[name]:.0f} s and was killed")
        self.places.running.unlink(missing_ok=True)
        self._say("stopped")

    def _hurry(self) -> None:
        while True:
            kind, _ = self.events.get()
            cloud = self.slots["cloud"].child
            if kind == "signal" and cloud is not None:
                cloud.send(hurry=True)

    def _write_running(self) -> None:
        children = {name: slot.child.process.pid for name, slot in self.slots.items() if slot.child}
        Running(os.getpid(), self.leased, self.state, self.ports, children).write(self.places)

    def _show(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        print(f"localcloud: {text}", flush=True)


def banner(ports: Ports, places: Places) -> str:
    """Return what a developer needs to begin with."""
    rest = f"http://{HOST}:{ports.rest}"
    day = datetime.now(UTC).date()
    question = f"metric=page_views&start={day}T00:00:00Z&end={day + timedelta(days=1)}T00:00:00Z"
    event = '{"event_type": "page_view", "user_id": "ada", "properties": {"path": "/"}}'
    return f"""
  Tidemark runs.
    REST        {rest}
    dashboard   {rest}/dashboard?key=demo-read
    WebSocket   ws://{HOST}:{ports.websocket}
    AWS         {ports.cloud_url}  (region us-east-1, keys test / test)
    API keys    demo-write, demo-read, demo-admin

  Send an event and read it back:
    curl -X POST {rest}/events -H 'x-api-key: demo-write' -H 'content-type: application/json' -d '{event}'
    curl '{rest}/analytics?{question}' -H 'x-api-key: demo-read'

  State and logs: {places.root}  (python -m localcloud forget removes them)
  A change of the source restarts the app. Ctrl-C stops everything and keeps the state.
"""
