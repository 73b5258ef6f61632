"""The functions process: every handler of app.py but REST's, invoked over loopback HTTP as Lambda's Invoke API."""

import logging
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import orjson
from chalice.config import Config
from chalice.local import LambdaContext

from localcloud.application import load_app, set_pauses
from localcloud.child import commands, report
from localcloud.declared_triggers import read_triggers
from localcloud.draining import DrainingHandler, DrainingServer
from localcloud.places import HOST, PROJECT

log = logging.getLogger("localcloud.functions")

DEFAULT_TIMEOUT_SECONDS = 60  # Chalice's own default
# Chalice deploys the socket handlers under names of its own, by which config.json calls them too.
SOCKET_FUNCTIONS = {"$connect": "websocket_connect", "$disconnect": "websocket_disconnect"}
OVERDUE_POLL_SECONDS = 0.1

Handler = Callable[[Any, Any], Any]


class Functions(DrainingServer):
    """Serves POST /2015-03-31/functions/<name>/invocations and GET /triggers."""

    def __init__(
        self, handlers: Mapping[str, Handler], timeouts: Mapping[str, float], triggers: list[Any], port: int
    ) -> None:
        self.handlers = handlers
        self.timeouts = timeouts
        self.triggers = triggers
        self.last_failure: dict[str, list[str]] = {}
        self.running: dict[int, tuple[str, float]] = {}  # by thread: the function, and when its time is over
        super().__init__((HOST, port), Endpoint)

    def server_bind(self) -> None:
        """The supervisor holds the port with a socket that never listens; this one does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def invoke(self, name: str, payload: bytes) -> tuple[bool, bytes]:
        """Run a handler; return whether it returned, and its value or its error as JSON."""
        context = LambdaContext(name, 1024, int(self.timeout_seconds(name) * 1000))
        try:
            return True, orjson.dumps(self.handlers[name](orjson.loads(payload or b"null"), context))
        except Exception as error:
            trace = traceback.format_exception(error)
            if self.last_failure.get(name) != trace:  # a batch that comes again and again fills no terminal
                log.exception("%s failed", name)
            self.last_failure[name] = trace
            return False, orjson.dumps(
                {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": trace}
            )

    def timeout_seconds(self, name: str) -> float:
        """Return how long a function may run."""
        return self.timeouts.get(name, DEFAULT_TIMEOUT_SECONDS)

    def overdue(self) -> str | None:
        """Return a function that runs longer than it may."""
        now = time.monotonic()
        return next((name for name, until in list(self.running.values()) if now > until), None)


class Endpoint(DrainingHandler):
    """One connection of the triggers or of the gateway, kept open."""

    server: Functions

    def do_GET(self) -> None:
        if self.path == "/triggers":
            self._answer(200, orjson.dumps(self.server.triggers))
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        payload = self.rfile.read(int(self.headers.get("content-length", "0")))
        prefix, _, rest = self.path.partition("/functions/")
        name, _, action = unquote(rest).partition("/")
        if prefix != "/2015-03-31" or action != "invocations" or name not in self.server.handlers:
            message = {"Type": "User", "Message": f"Function not found: {name}"}
            self._answer(404, orjson.dumps(message), {"x-amzn-ErrorType": "ResourceNotFoundException"})
            return
        thread = threading.get_ident()
        self.server.running[thread] = (name, time.monotonic() + self.server.timeout_seconds(name))
        try:
            returned, body = self.server.invoke(name, payload)
            self._answer(200, body, {} if returned else {"X-Amz-Function-Error": "Unhandled"})
        finally:
            del self.server.running[thread]

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} -", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)  # in one packet

    def log_message(self, *_values: Any) -> None:
        """The handlers log; their invocations need no line each."""


def serve_functions() -> int:
    """Serve until told to stop, then finish what is in progress."""
    received = commands()
    app, config = load_app()
    set_pauses("functions")
    handlers = {name: handler for name, handler in app.handler_map.items() if name != "api_handler"}
    timeouts = read_timeouts(app, config)
    triggers = read_triggers(app, PROJECT / "infra" / "triggers.json")
    server = Functions(handlers, timeouts, triggers, int(os.environ.get("LOCALCLOUD_FUNCTIONS_PORT", "0")))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    report(ready=True, triggers=triggers, timeouts=timeouts)
    end_on_request(server, received)
    return 0


def end_on_request(server: Functions, received: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Return when told to stop and the rest is finished; a function that overruns ends the process there and then.

    Lambda never runs a batch beside its retry. A thread cannot be stopped, so the process is, and the supervisor
    starts another; other invocations in progress are lost with it, as any may be, and come again.
    """
    while (name := server.overdue()) is None:
        with suppress(queue.Empty):
            if "stop" in received.get(timeout=OVERDUE_POLL_SECONDS):
                server.finish()
                return
    log.error("%s ran longer than its time-out of %g s; its process ends", name, server.timeout_seconds(name))
    os._exit(1)  # an orderly end would wait for the function


def read_timeouts(app: Any, config: Config) -> dict[str, int]:
    """Return each handler's time-out in seconds, as it is deployed."""
    deployed = {
        handler.name: SOCKET_FUNCTIONS.get(route, "websocket_message")
        for route, handler in app.websocket_handlers.items()
    }
    return {
        name: config.scope(config.chalice_stage, deployed.get(name, name)).lambda_timeout or DEFAULT_TIMEOUT_SECONDS
        for name in app.handler_map
        if name != "api_handler"
    }
