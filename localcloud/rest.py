"""The REST process: Chalice's own local server on a socket that outlives it, so that a restart refuses no client."""

import logging
import os
import socket
import sys
import threading
import time
from functools import partial
from http.server import HTTPServer
from typing import Any

from chalice.local import ChaliceRequestHandler, create_local_server

from localcloud.application import load_app
from localcloud.child import commands, report
from localcloud.places import HOST

LAST_REQUESTS_SECONDS = 4.0  # for the requests in progress when the server is to end


class Handler(ChaliceRequestHandler):
    """Chalice's handler, which counts what is in progress and writes its access lines to the log only."""

    disable_nagle_algorithm = True  # headers and body are two writes: else each answer waits for the client's ACK
    close_connection: bool
    active = 0
    ending = False
    lock = threading.Lock()

    def _generic_handle(self) -> None:
        with Handler.lock:
            Handler.active += 1
        try:
            super()._generic_handle()
        finally:
            self.close_connection = self.close_connection or Handler.ending
            with Handler.lock:
                Handler.active -= 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = _generic_handle

    def log_message(self, form: str, *values: Any) -> None:
        print(f"{self.log_date_time_string()} {form % values}", flush=True)


def serve_rest() -> int:
    """Serve until told to stop, then finish what is in progress."""
    received = commands()
    app, config = load_app()
    server: HTTPServer = create_local_server(app, config, HOST, 0).server
    server.RequestHandlerClass = partial(Handler, app_object=app, config=config)
    server.handle_error = _log_error  # type: ignore[method-assign, assignment]
    if "LOCALCLOUD_REST_SOCKET" in os.environ:
        server.socket.close()
        server.socket = socket.socket(fileno=int(os.environ["LOCALCLOUD_REST_SOCKET"]))
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    report(ready=True)
    while "stop" not in received.get():
        continue
    Handler.ending = True
    server.shutdown()
    until = time.monotonic() + LAST_REQUESTS_SECONDS
    while Handler.active and time.monotonic() < until:
        time.sleep(0.01)
    return 0


def _log_error(_request: Any, client: Any) -> None:
    error = sys.exception()
    if isinstance(error, ConnectionError):
        print(f"{client[0]} went away: {error}", flush=True)
    else:
        logging.getLogger("localcloud").exception("a request failed")
