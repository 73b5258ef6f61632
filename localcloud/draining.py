"""HTTP servers with a thread for each connection, which at their end answer what they have accepted."""

import logging
import select
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

LAST_REQUESTS_SECONDS = 5.0  # for what is in progress when a server is to end
FIRST_REQUEST_MS = 500  # browsers connect before they have anything to ask


class DrainingServer(ThreadingMixIn, HTTPServer):
    """`finish` ends it; a connection counts from the moment it is accepted, before its thread has read anything."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.ending = self._accepted_all = False
        self._open = 0
        self._lock = threading.Lock()
        self.end, self._end = socket.socketpair()  # the first is readable from the end on
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._count(1)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._count(-1)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._count(-1)

    def finish(self) -> None:
        """Accept nothing more; return when what was accepted is answered, or after some seconds."""
        self.ending = True
        self._end.close()
        self.shutdown()
        self.server_close()
        self._accepted_all = True
        self._count(0)
        until = time.monotonic() + LAST_REQUESTS_SECONDS
        while self._open and time.monotonic() < until:
            time.sleep(0.01)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Say in one line that a client went away."""
        error = sys.exception()
        if isinstance(error, ConnectionError):
            print(f"{client_address[0]} went away: {error}", flush=True)
        else:
            logging.getLogger("localcloud").exception("a request failed")

    def _count(self, more: int) -> None:
        with self._lock:
            self._open += more
            if self._accepted_all and not self._open:
                self.end.close()


class DrainingHandler(BaseHTTPRequestHandler):
    """One connection; at the end of its server it is closed when nothing comes on it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: else each answer waits for the client's ACK
    server: DrainingServer
    answered = False

    def handle_one_request(self) -> None:
        if self._comes():
            super().handle_one_request()
            self.answered = True
        else:
            self.close_connection = True

    def _comes(self) -> bool:
        """Wait for the next request, or for the end of the server or of the connection."""
        self.connection.setblocking(False)
        buffered = self.rfile.peek()  # type: ignore[attr-defined] # it has a buffer, in which the next may lie
        self.connection.setblocking(True)
        if buffered:
            return True
        poller = select.poll()
        poller.register(self.connection, select.POLLIN)
        poller.register(self.server.end, select.POLLIN)
        if any(number == self.connection.fileno() for number, _ in poller.poll()):
            return True
        poller.unregister(self.server.end)
        return not self.answered and bool(poller.poll(FIRST_REQUEST_MS))  # who has just connected is about to ask
