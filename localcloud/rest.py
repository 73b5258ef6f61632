"""The REST process: Chalice's own local server on a socket that outlives it, so that a restart refuses no client."""

import os
import socket
import threading
from functools import partial
from typing import Any

from chalice.local import ChaliceRequestHandler, create_local_server

from localcloud.application import load_app, set_pauses
from localcloud.child import commands, report
from localcloud.draining import DrainingHandler, DrainingServer
from localcloud.places import HOST


class Handler(DrainingHandler, ChaliceRequestHandler):
    """Chalice's handler, which writes its access lines to the log only."""

    def log_message(self, form: str, *values: Any) -> None:
        print(f"{self.log_date_time_string()} {form % values}", flush=True)


def serve_rest() -> int:
    """Serve until told to stop, then finish what is in progress."""
    received = commands()
    app, config = load_app()
    set_pauses("rest")
    create_local_server(app, config, HOST, 0).server.server_close()  # it makes the app one that threads can share
    handler: Any = Handler  # Chalice has no types
    server = DrainingServer((HOST, 0), partial(handler, app_object=app, config=config), bind_and_activate=False)
    if "LOCALCLOUD_REST_SOCKET" in os.environ:
        server.socket.close()
        server.socket = socket.socket(fileno=int(os.environ["LOCALCLOUD_REST_SOCKET"]))
    else:
        server.server_bind()
        server.server_activate()
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    report(ready=True)
    while "stop" not in received.get():
        continue
    server.finish()
    return 0
