"""An HTTP proxy that lets every request through and now and then drops the answer, as a bad network does."""

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from types import TracebackType
from urllib.parse import urlsplit

MAX_LOST = 2  # answers of one body
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class LossyProxy:
    """Of the answers to POSTs, `share` never arrive: the connection is closed after the request was processed.

    Of one body two answers at most are lost: some SDKs give up after three repetitions, which is not what is tested.
    """

    def __init__(self, upstream: str, share: float, seed: int) -> None:
        self.posts = 0
        self.dropped = 0
        self._upstream = urlsplit(upstream).netloc
        self._share = share
        self._random = Random(seed)
        self._lost = Counter[bytes]()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """Forwards one request after another."""

            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection(proxy._upstream, timeout=30)
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                if self.command == "POST" and proxy._drops(body):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_OPTIONS = _forward

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _drops(self, body: bytes) -> bool:
        with self._lock:
            self.posts += 1
            drops = self._random.random() < self._share and self._lost[body] < MAX_LOST
            self._lost[body] += drops
            self.dropped += drops
            return drops

    def __enter__(self) -> "LossyProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
