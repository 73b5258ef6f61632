"""Servers that answer at their end what they have accepted."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from localcloud import draining
from localcloud.draining import DrainingHandler, DrainingServer


class Handler(DrainingHandler):
    """Answers with the body that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Ending:
    """A server, and the thread that ends it."""

    def __init__(self) -> None:
        self.server = DrainingServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        self.ended = threading.Event()
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def connect(self) -> socket.socket:
        """A client whose connection is accepted."""
        before = self.server._open
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        while self.server._open == before:
            time.sleep(0.001)
        return client

    def end(self) -> None:
        """Have it end from now on."""

        def finish() -> None:
            self.server.finish()
            self.ended.set()

        threading.Thread(target=finish, daemon=True).start()
        while not self.server.ending:
            time.sleep(0.001)


@pytest.fixture
def ending() -> Iterator[Ending]:
    made = Ending()
    yield made
    if not made.ended.is_set():
        made.end()
        assert made.ended.wait(10)


REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize("before", [0, 10, len(REQUEST) - 1])
def test_a_request_on_its_way_when_the_server_ends_is_answered(ending: Ending, before: int) -> None:
    with ending.connect() as client:
        client.sendall(REQUEST[:before])
        ending.end()
        time.sleep(0.1)
        assert not ending.ended.is_set()
        client.sendall(REQUEST[before:])

        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.read() == b"hello"
        answer.close()
        assert ending.ended.wait(10)


def test_a_connection_on_which_nothing_comes_any_more_does_not_hold_up_the_end(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "LAST_REQUESTS_SECONDS", 60)
    kept = http.client.HTTPConnection("127.0.0.1", ending.port)
    for _ in range(2):
        kept.request("POST", "/", b"hello")
        assert kept.getresponse().read() == b"hello"

    with ending.connect():
        ending.end()

        assert ending.ended.wait(10)
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        ending.connect()


def test_requests_that_come_together_are_answered_together(ending: Ending) -> None:
    with ending.connect() as client:
        client.sendall(REQUEST * 3)

        found = b""
        while found.count(b"hello") < 3:
            found += client.recv(65536)


def test_a_server_that_is_to_end_does_not_wait_for_ever(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LAST_REQUESTS_SECONDS", 0.1)

    with ending.connect() as client:
        client.sendall(REQUEST[:10])
        ending.end()

        assert ending.ended.wait(10)


def test_a_client_that_goes_away_is_a_line_in_the_log(ending: Ending, capfd: pytest.CaptureFixture[str]) -> None:
    client = ending.connect()
    client.sendall(REQUEST[:10])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    ending.end()

    assert ending.ended.wait(10)
    shown = capfd.readouterr()
    assert shown.out.startswith("127.0.0.1 went away: ")
    assert shown.err == ""
