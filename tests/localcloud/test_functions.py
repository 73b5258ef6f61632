"""The functions process: time-outs."""

from chalice.app import Chalice
from chalice.config import Config

from localcloud.functions import read_timeouts


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
