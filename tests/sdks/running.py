"""Runs the JavaScript SDKs: those of servers under node, those of browsers in headless Chromium."""

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.localcloud.running import end
from tests.sdks.journey import Call

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Its own name says that it is headless, and bots are in no metric.
USER_AGENT = "Mozilla/5.0 (X11; Linux x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", f"--user-agent={USER_AGENT}"),
)


def _node_major() -> int:
    if shutil.which("node") is None:
        return 0
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").partition(".")[0])


with_node = pytest.mark.skipif(
    _node_major() < 20 or not MODULES.exists(),
    reason="needs node 20, as one of the SDKs does, and `npm ci --ignore-scripts` run in tests/sdks",
)
with_chromium = pytest.mark.skipif(
    CHROMIUM is None or not MODULES.exists(),
    reason="needs Chromium, and `npm ci --ignore-scripts` run in tests/sdks",
)


def run_node(sdk: str, address: str, calls: Iterable[Call], **options: Any) -> None:
    """Make the calls with a server's SDK; returns when it has delivered them all."""
    spec = _spec(sdk, address, calls, options)
    done = subprocess.run(
        ["node", "node_sdk.js"], cwd=FOLDER, input=json.dumps(spec), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def run_browser(sdk: str, address: str, calls: Iterable[Call], *, seconds: float = 60, **options: Any) -> None:
    """Make the calls with a browser's SDK on a page of another origin; returns when it has delivered them all."""
    outcome: list[str] = []
    finished = threading.Event()

    class Page(SimpleHTTPRequestHandler):
        """Serves this folder and the calls to make, and takes the outcome."""

        def do_GET(self) -> None:
            if self.path != "/spec.json":
                return super().do_GET()
            body = json.dumps(_spec(sdk, address, calls, options)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return None

        def do_POST(self) -> None:
            outcome.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()
            finished.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    assert CHROMIUM is not None
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Page, directory=str(FOLDER))) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        tempfile.TemporaryFile("w+") as terminal,
    ):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/browser_sdk.html"
        browser = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url], stdout=terminal, stderr=subprocess.STDOUT
        )
        try:
            in_time = finished.wait(seconds)
            terminal.seek(0)
            assert in_time, f"the page did not end within {seconds} s:\n{terminal.read()[-2000:]}"
        finally:
            end(browser)
            server.shutdown()
    assert outcome == ["delivered"], outcome


def _spec(sdk: str, address: str, calls: Iterable[Call], options: dict[str, Any]) -> dict[str, Any]:
    made = [{"kind": call.kind, "message": call.message} for call in calls]
    return {"sdk": sdk, "address": address, "key": "demo-write", "calls": made, "flush_at": 20, **options}
