"""The WebSocket gateway, with a real client and boto3's management client."""

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import boto3
import pytest
import websockets
from botocore.exceptions import ClientError

from localcloud import gateway as gateway_module
from localcloud.functions import Functions
from localcloud.gateway import FRAME_BYTES, PUSH_BYTES, Gateway
from localcloud.server import AsgiServer
from localcloud.wire import FunctionsApi
from tests.localcloud.running import wait_for


class Sockets:
    """The three functions of a WebSocket API; they remember their events and echo messages."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.connect_answer: Any = {"statusCode": 200}
        self.fail_messages = False

    def connect(self, event: dict[str, Any], _context: Any) -> Any:
        self.events.append(event)
        if isinstance(self.connect_answer, Exception):
            raise self.connect_answer
        return self.connect_answer

    def message(self, event: dict[str, Any], _context: Any) -> Any:
        self.events.append(event)
        if self.fail_messages:
            raise ValueError("broken")
        return {"statusCode": 200}

    def disconnect(self, event: dict[str, Any], _context: Any) -> Any:
        self.events.append(event)
        return {"statusCode": 200}

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type."""
        return [event for event in self.events if event["requestContext"]["eventType"] == kind]


@pytest.fixture
def functions() -> Sockets:
    return Sockets()


@pytest.fixture
def running() -> Iterator[list[tuple[AsgiServer, Gateway, Functions]]]:
    """The gateways of a test, which end with it."""
    running: list[tuple[AsgiServer, Gateway, Functions]] = []
    yield running
    for server, gateway, process in running:
        server.call(gateway.close_all())
        server.stop()
        process.finish()


@pytest.fixture
def start(functions: Sockets, running: list[tuple[AsgiServer, Gateway, Functions]]) -> Callable[..., int]:
    """Starts a gateway; its port."""

    def begin(**limits: float) -> int:
        handlers = {
            "socket_connect": functions.connect,
            "socket_message": functions.message,
            "socket_disconnect": functions.disconnect,
        }
        process = Functions(handlers, {}, [], 0)
        threading.Thread(target=process.serve_forever, args=(0.01,), daemon=True).start()
        listener = socket.create_server(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        gateway = Gateway(FunctionsApi(process.server_address[1]), f"127.0.0.1:{port}", "dev", **limits)
        server = AsgiServer(gateway.app, listener, "gateway", max_message_bytes=4 * FRAME_BYTES)
        running.append((server, gateway, process))
        return port

    return begin


@pytest.fixture
def port(start: Callable[..., int]) -> int:
    return start()


@pytest.fixture
def pusher(port: int) -> Iterator[Any]:
    """boto3's client of the management API."""
    client = boto3.client(
        "apigatewaymanagementapi",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield client
    client.close()


@asynccontextmanager
async def connected(port: int, query: str = "") -> AsyncIterator[Any]:
    """A client's connection."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/{query}") as client:
        yield client


def test_a_client_connects_sends_receives_and_leaves(port: int, pusher: Any, functions: Sockets) -> None:
    async def live() -> str:
        async with connected(port, "?ticket=abc&x=1") as client:
            await client.send("hello")
            await asyncio.to_thread(wait_for, lambda: functions.of("MESSAGE"), 5, "the message")
            connection_id = functions.of("MESSAGE")[0]["requestContext"]["connectionId"]
            await asyncio.to_thread(pusher.post_to_connection, ConnectionId=connection_id, Data=b'{"n": 1}')
            found = await asyncio.to_thread(pusher.get_connection, ConnectionId=connection_id)
            assert found["Identity"]["SourceIp"] == "127.0.0.1"
            return str(await client.recv())

    received = asyncio.run(live())

    wait_for(lambda: functions.of("DISCONNECT"), 5, "the end")
    connect, message, disconnect = (functions.of(kind)[0] for kind in ("CONNECT", "MESSAGE", "DISCONNECT"))
    assert received == '{"n": 1}'
    assert connect["queryStringParameters"] == {"ticket": "abc", "x": "1"}
    assert connect["requestContext"]["routeKey"] == "$connect"
    assert connect["requestContext"]["domainName"] == f"127.0.0.1:{port}"
    assert connect["requestContext"]["stage"] == "dev"
    assert (message["body"], message["isBase64Encoded"]) == ("hello", False)
    assert message["requestContext"]["routeKey"] == "$default"
    assert disconnect["requestContext"]["routeKey"] == "$disconnect"
    assert len({event["requestContext"]["connectionId"] for event in functions.events}) == 1


@pytest.mark.parametrize(
    ("answer", "status"), [({"statusCode": 401}, 401), ({"statusCode": 403}, 403), (ValueError("broken"), 500)]
)
def test_a_refused_handshake_has_the_functions_status(port: int, functions: Sockets, answer: Any, status: int) -> None:
    functions.connect_answer = answer

    async def refused() -> int:
        try:
            async with connected(port):
                return 101
        except websockets.InvalidStatus as error:
            return error.response.status_code

    assert asyncio.run(refused()) == status
    assert functions.of("DISCONNECT") == []


def test_a_push_to_a_connection_that_is_gone_raises_gone_exception(port: int, pusher: Any, functions: Sockets) -> None:
    async def come_and_go() -> None:
        async with connected(port):
            pass

    asyncio.run(come_and_go())
    wait_for(lambda: functions.of("DISCONNECT"), 5, "the end")
    gone = functions.of("CONNECT")[0]["requestContext"]["connectionId"]

    for call in ("post_to_connection", "get_connection", "delete_connection"):
        parameters = {"ConnectionId": gone} | ({"Data": b"x"} if call.startswith("post") else {})
        with pytest.raises(ClientError) as caught:
            getattr(pusher, call)(**parameters)
        assert caught.value.response["Error"]["Code"] == "GoneException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 410


def test_a_push_over_the_limit_is_refused_and_the_connection_stays(port: int, pusher: Any, functions: Sockets) -> None:
    async def live() -> None:
        async with connected(port) as client:
            await asyncio.to_thread(wait_for, lambda: functions.of("CONNECT"), 5, "the connection")
            connection_id = functions.of("CONNECT")[0]["requestContext"]["connectionId"]

            def push(size: int) -> None:
                pusher.post_to_connection(ConnectionId=connection_id, Data=b"x" * size)

            with pytest.raises(ClientError) as caught:
                await asyncio.to_thread(push, PUSH_BYTES + 1)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
            await asyncio.to_thread(push, PUSH_BYTES)
            assert len(await client.recv()) == PUSH_BYTES

    asyncio.run(live())


def test_a_frame_over_the_limit_ends_the_connection(port: int, functions: Sockets) -> None:
    async def close_code() -> int | None:
        async with connected(port) as client:
            await client.send("x" * FRAME_BYTES)
            await client.send("x" * (FRAME_BYTES + 1))
            await client.wait_closed()
            code: int | None = client.close_code
            return code

    assert asyncio.run(close_code()) == 1009
    assert len(functions.of("MESSAGE")) == 1


def test_a_deleted_connection_is_closed(port: int, pusher: Any, functions: Sockets) -> None:
    async def close_code() -> int | None:
        async with connected(port) as client:
            await asyncio.to_thread(wait_for, lambda: functions.of("CONNECT"), 5, "the connection")
            connection_id = functions.of("CONNECT")[0]["requestContext"]["connectionId"]
            await asyncio.to_thread(pusher.delete_connection, ConnectionId=connection_id)
            await client.wait_closed()
            code: int | None = client.close_code
            return code

    assert asyncio.run(close_code()) == 1000
    wait_for(lambda: functions.of("DISCONNECT"), 5, "the end")


def test_an_idle_connection_is_closed(
    start: Callable[..., int], functions: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "POLL_SECONDS", 0.05)
    port = start(idle_seconds=0.3)

    async def close_code() -> int | None:
        async with connected(port) as client:
            await client.wait_closed()
            code: int | None = client.close_code
            return code

    assert asyncio.run(close_code()) == 1001


def test_a_connection_is_closed_after_its_time_however_much_it_says(
    start: Callable[..., int], functions: Sockets
) -> None:
    port = start(maximum_seconds=0.3)

    async def close_code() -> int | None:
        async with connected(port) as client:
            with suppress(websockets.ConnectionClosed, TimeoutError):
                async with asyncio.timeout(20):
                    while True:
                        await client.send("hello")
                        await asyncio.sleep(0.01)
            code: int | None = client.close_code
            return code

    assert asyncio.run(close_code()) == 1001


def test_a_client_hears_of_a_function_that_failed(port: int, functions: Sockets) -> None:
    functions.fail_messages = True

    async def answer() -> dict[str, Any]:
        async with connected(port) as client:
            await client.send("hello")
            message: dict[str, Any] = json.loads(await client.recv())
            return message

    assert asyncio.run(answer())["message"] == "Internal server error"


def test_the_messages_of_one_socket_are_handled_one_by_one_in_order(
    start: Callable[..., int], functions: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[str] = []
    together: list[int] = []

    def message(event: dict[str, Any], _context: Any) -> None:
        running.append(event["body"])
        together.append(len(running))
        time.sleep(0.05 if event["body"] == "0" else 0)
        running.remove(event["body"])
        functions.events.append(event)

    monkeypatch.setattr(functions, "message", message)
    port = start()
    sent = [str(number) for number in range(20)]

    async def talk() -> None:
        async with connected(port) as client:
            for text in sent:
                await client.send(text)

    asyncio.run(talk())

    wait_for(lambda: functions.of("DISCONNECT"), 5, "the end")
    assert [event["body"] for event in functions.of("MESSAGE")] == sent
    assert set(together) == {1}


# Clients that take nothing


@contextmanager
def stuck(port: int, pusher: Any, functions: Sockets, *, talks: bool = False) -> Iterator[str]:
    """A client that has connected and then reads no more, with all buffers full; its connection's id.

    One that `talks` goes on sending.
    """
    over = threading.Event()

    def talk() -> None:
        with suppress(OSError):
            while not over.wait(0.01):
                client.sendall(b"\x81\x82\0\0\0\0hi")  # a frame of text, masked by zeros

    key = base64.b64encode(bytes(16)).decode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        upgrade = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13"
        client.sendall(f"GET / HTTP/1.1\r\nhost: x\r\n{upgrade}\r\nsec-websocket-key: {key}\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 101"
        talking = threading.Thread(target=talk, daemon=True)
        if talks:
            talking.start()
        connection_id: str = functions.of("CONNECT")[0]["requestContext"]["connectionId"]

        def fill() -> None:
            for _ in range(1000):
                pusher.post_to_connection(ConnectionId=connection_id, Data=b"x" * PUSH_BYTES)

        with pytest.raises(ClientError, match="Gone"):
            fill()
        yield connection_id
        over.set()
        if talks:
            talking.join()


@pytest.mark.parametrize("talks", [False, True])
def test_a_client_that_takes_nothing_is_gone_and_its_function_hears_of_it(
    port: int, pusher: Any, functions: Sockets, monkeypatch: pytest.MonkeyPatch, talks: bool
) -> None:
    monkeypatch.setattr(gateway_module, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(gateway_module, "POLL_SECONDS", 0.05)

    with stuck(port, pusher, functions, talks=talks) as connection_id:
        wait_for(lambda: functions.of("DISCONNECT"), 5, "the end")

        (told,) = functions.of("DISCONNECT")
        assert told["requestContext"]["connectionId"] == connection_id


def ended(server: AsgiServer, gateway: Gateway) -> threading.Event:
    """Set when a gateway has ended, as far as it can."""
    done = threading.Event()

    def end() -> None:
        server.call(gateway.close_all())
        server.stop(2)
        done.set()

    threading.Thread(target=end, daemon=True).start()
    return done


@pytest.mark.parametrize("pushed", [True, False])
def test_a_client_that_takes_nothing_does_not_hold_up_the_end(
    port: int, pusher: Any, functions: Sockets, running: Any, monkeypatch: pytest.MonkeyPatch, pushed: bool
) -> None:
    monkeypatch.setattr(gateway_module, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(gateway_module, "CLOSE_SECONDS", 0.2)
    server, gateway, process = running.pop()

    with stuck(port, pusher, functions) as connection_id:
        gateway.connections[connection_id].closed = pushed  # as no push has found yet that it takes nothing
        assert ended(server, gateway).wait(20)
        assert server.stop()
    process.finish()


def test_a_function_that_does_not_return_does_not_hold_up_the_end(
    start: Callable[..., int], functions: Sockets, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "CLOSE_SECONDS", 0.2)
    returns = threading.Event()
    monkeypatch.setattr(functions, "disconnect", lambda *_: returns.wait(60))
    port = start()
    server, gateway, process = running.pop()

    async def live() -> bool:
        async with connected(port):
            return await asyncio.to_thread(ended(server, gateway).wait, 20)

    try:
        assert asyncio.run(live())
    finally:
        returns.set()
        assert server.stop()
        process.finish()


def test_a_push_that_meets_the_close_of_its_connection_finds_it_gone(
    port: int, functions: Sockets, running: Any
) -> None:
    server, gateway, _ = running[0]

    async def both() -> bool:
        [connection] = gateway.connections.values()
        sent, _ = await asyncio.gather(gateway._send(connection, "x"), gateway._close(connection, 1000))
        return bool(sent)

    async def live() -> tuple[bool, list[Any]]:
        async with connected(port) as client:
            sent = await asyncio.to_thread(server.call, both())
            return sent, [text async for text in client]

    sent, received = asyncio.run(live())
    assert received == ["x"] * sent
