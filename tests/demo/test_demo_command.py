"""The demo's command against a stack of this file's own, which counts in memory."""

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from demo import counts, traffic
from demo.__main__ import main
from demo.counts import Row, table

NEW_IDS = re.compile(r"run (\S+), seed")


class FakeStack(ThreadingHTTPServer):
    """Counts each event id once, unless it is told to err."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.types: dict[str, str] = {}
        self.again = 0
        self.lock = threading.Lock()
        self.lossy = self.doubling = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, document: dict[str, Any]) -> None:
        with self.lock:
            for number, event in enumerate(document["events"]):
                if self.doubling and event["event_id"] in self.types:
                    self.again += 1
                if not (self.lossy and number == 0):
                    self.types[event["event_id"]] = event["event_type"]

    def count(self, metric: str) -> int | None:
        by_type = Counter(self.types.values())
        if metric == "events":
            return len(self.types) + self.again
        if metric not in by_type:
            return None
        return by_type[metric] + (self.again if metric == "page_view" else 0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: FakeStack

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/health":
            return self.answer(200, {"status": "ok"})
        if self.headers["x-api-key"] != "demo-read":
            return self.answer(401, {"code": "unauthenticated", "message": "the API key is not known"})
        total = self.server.count(parse_qs(parts.query)["metric"][0])
        if total is None:
            return self.answer(404, {"code": "unknown_metric", "message": "not known"})
        return self.answer(200, {"total": total, "series": []})

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/query":
            prefix = re.findall(r"LIKE '(.*)%'", document["sql"])[0]
            known = Counter(kind for event_id, kind in self.server.types.items() if event_id.startswith(prefix))
            return self.answer(200, {"state": "SUCCEEDED", "columns": [], "rows": [list(row) for row in known.items()]})
        if self.headers["x-api-key"] != "demo-write":
            return self.answer(403, {"code": "forbidden", "message": "the key has the scopes ['read']"})
        self.server.take(document)
        return self.answer(202, {"accepted": len(document["events"]), "rejected": []})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStack]:
    for name in ("RATE", "SECONDS", "SEED", "RUN_ID", "WRITE_KEY", "READ_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(counts, "STEADY_SECONDS", 0.02)
    monkeypatch.setattr(counts, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(traffic, "DUPLICATE_SECONDS", (0.01, 0.1))
    with FakeStack() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def demo(stack: FakeStack, *options: str) -> int:
    return main(["--url", stack.url, "--rate", "1000", "--seconds", "0.4", "--patience", "0.2", *options])


def test_a_stack_that_counts_right_passes_also_when_it_held_events_before(
    stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(stack) == 0
    assert demo(stack) == 0

    told = capsys.readouterr().out
    assert re.search(r"total +(\d+) +\1 +0\n", told)
    assert "known before" not in told
    assert told.count("Exact: each of") == 2


def test_a_run_that_is_repeated_may_add_nothing(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    demo(stack)
    run_id = NEW_IDS.findall(capsys.readouterr().out)[0]

    assert demo(stack, "--run-id", run_id) == 0
    assert "Nothing new was counted" in capsys.readouterr().out


def test_a_run_that_is_repeated_after_it_was_cut_short_adds_the_rest(
    stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--url", stack.url, "--rate", "1000", "--seconds", "0.2"])
    run_id = NEW_IDS.findall(capsys.readouterr().out)[0]

    assert demo(stack, "--run-id", run_id) == 0
    assert "known before" in capsys.readouterr().out


def test_another_seed_under_the_same_run_id_is_another_run(
    stack: FakeStack, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(stack)
    run_id = NEW_IDS.findall(capsys.readouterr().out)[0]

    assert demo(stack, "--run-id", run_id, "--seed", "2") == 0
    assert "Exact: each of" in capsys.readouterr().out


def test_a_stack_that_loses_events_fails(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.lossy = True

    assert demo(stack) == 1
    assert re.search(r"total +\d+ +\d+ +-\d+\n", capsys.readouterr().out)


def test_a_stack_that_counts_duplicates_fails(stack: FakeStack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.doubling = True

    assert demo(stack, "--seconds", "1") == 1
    assert re.search(r"page_view +\d+ +\d+ +\+\d+\n", capsys.readouterr().out)


def test_without_a_stack_the_command_that_starts_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))

        assert main(["--url", f"http://127.0.0.1:{held.getsockname()[1]}"]) == 1

    assert "make run" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "told"), [("--key", "write key"), ("--read-key", "read key")])
def test_a_wrong_key_is_named(stack: FakeStack, option: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(stack, option, "wrong") == 1

    message = capsys.readouterr().err
    assert told in message
    assert option in message


@pytest.mark.parametrize("run_id", ["x", "20261399T000000Z-ab", "20200101T000000Z-ab", "29990101T000000Z-ab"])
def test_a_run_id_that_cannot_be_repeated_is_refused(
    stack: FakeStack, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(stack, "--run-id", run_id) == 1
    assert run_id in capsys.readouterr().err


def test_the_environment_gives_the_defaults(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "500")
    monkeypatch.setenv("SECONDS", "0.2")
    monkeypatch.setenv("TIDEMARK_URL", stack.url)

    assert main([]) == 0
    assert 90 < len(stack.types) < 190


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    told = capsys.readouterr().out
    for option in ("--rate", "--seconds", "--seed", "--run-id", "--url", "--key", "--read-key", "--patience"):
        assert option in told


def test_the_table_lines_up() -> None:
    assert table([Row("click", 10, 0, 9), Row("page_view", 1200, 0, 1200)]) == (
        "type       sent  counted  difference\n"
        "------------------------------------\n"
        "click        10        9          -1\n"
        "page_view  1200     1200           0\n"
        "------------------------------------\n"
        "total      1210     1209          -1"
    )
