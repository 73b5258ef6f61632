"""The functions process: time-outs."""

import subprocess
import sys

import pytest
from chalice.app import Chalice
from chalice.config import Config

from localcloud.functions import read_timeouts
from localcloud.places import PROJECT
from localcloud.wire import FunctionFailed, FunctionsApi

ONE_SLOW_FUNCTION = """
import queue, threading, time
from localcloud.functions import Functions, end_on_request
server = Functions({"worker": lambda _event, _context: time.sleep(60)}, {"worker": 0.3}, [], 0)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
end_on_request(server, queue.SimpleQueue())
"""


def test_a_socket_handler_has_the_time_out_of_the_name_it_is_deployed_under() -> None:
    app = Chalice("test")
    for register, name in (
        (app.on_ws_connect, "socket_connect"),
        (app.on_ws_message, "socket_message"),
        (app.on_ws_disconnect, "socket_disconnect"),
        (app.lambda_function, "worker"),
        (app.lambda_function, "other"),
    ):
        register(name=name)(lambda _event, _context=None: None)
    seconds = {"websocket_connect": 1, "websocket_message": 2, "websocket_disconnect": 3, "worker": 4}
    functions = {name: {"lambda_timeout": timeout} for name, timeout in seconds.items()}

    timeouts = read_timeouts(app, Config("dev", config_from_disk={"stages": {"dev": {"lambda_functions": functions}}}))

    assert timeouts == {"socket_connect": 1, "socket_message": 2, "socket_disconnect": 3, "worker": 4, "other": 60}


def test_a_function_that_overruns_is_stopped_with_its_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ONE_SLOW_FUNCTION],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        functions = FunctionsApi(int(process.stdout.readline()), timeout_seconds=10)

        with pytest.raises(FunctionFailed, match="lost with its process"):
            functions.invoke("worker", b"{}")

        _, shown = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "worker ran longer than its time-out of 0.3 s" in shown
