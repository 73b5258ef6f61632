"""The WebSocket gateway: API Gateway's routes to the functions, and its management API, on one port."""

import asyncio
import base64
import logging
import secrets
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import orjson

from localcloud.wire import FunctionFailed, FunctionsApi, Unreachable

log = logging.getLogger("localcloud.gateway")

# API Gateway's quotas
IDLE_SECONDS = 600
MAXIMUM_SECONDS = 7200
FRAME_BYTES = 32 * 1024
PUSH_BYTES = 128 * 1024

SEND_SECONDS = 10.0  # a client that takes nothing for so long is taken for gone
POLL_SECONDS = 5.0  # of the limits above
CLOSE_SECONDS = 3.0  # for clients and functions to hear that the gateway ends
CONNECT, DEFAULT, DISCONNECT = "$connect", "$default", "$disconnect"
FUNCTIONS = {CONNECT: "socket_connect", DEFAULT: "socket_message", DISCONNECT: "socket_disconnect"}
EVENTS = {CONNECT: "CONNECT", DEFAULT: "MESSAGE", DISCONNECT: "DISCONNECT"}


@dataclass
class Connection:
    """One open socket."""

    id: str
    send: Any
    source_ip: str
    user_agent: str
    connected_at: float = field(default_factory=time.time)
    active_at: float = field(default_factory=time.time)
    closed: bool = False
    lost: bool = False  # closed, and the client does not take that


class Gateway:
    """An ASGI app. `domain` and `stage` are what the functions find in a request's context."""

    def __init__(
        self,
        functions: FunctionsApi,
        domain: str,
        stage: str,
        *,
        idle_seconds: float = IDLE_SECONDS,
        maximum_seconds: float = MAXIMUM_SECONDS,
    ) -> None:
        self.functions = functions
        self.domain = domain
        self.stage = stage
        self.idle_seconds = idle_seconds
        self.maximum_seconds = maximum_seconds
        self.connections: dict[str, Connection] = {}

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's entry."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._management(scope, receive, send)
        elif scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return

    async def close_all(self) -> None:
        """Tell every client to come back later, and every function that it went."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(self._close(connection, 1001) for connection in list(self.connections.values())))
                while self.connections:
                    await asyncio.sleep(0.02)

    # Sockets

    async def _socket(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        connection = Connection(
            id=base64.b64encode(secrets.token_bytes(11)).decode().replace("/", "_").replace("+", "-"),
            send=send,
            source_ip=(scope.get("client") or ("127.0.0.1",))[0],
            user_agent=headers.get("user-agent", ""),
        )
        await receive()  # websocket.connect
        status = await self._connect(connection, headers, scope["query_string"].decode("latin-1"))
        if status is not None:
            await _refuse(send, status)
            return
        self.connections[connection.id] = connection
        await send({"type": "websocket.accept"})
        code, reason = 1006, ""
        try:
            code, reason = await self._serve(connection, receive)
        finally:
            connection.closed = True
            await self._route(connection, DISCONNECT, disconnectStatusCode=code, disconnectReason=reason)
            self.connections.pop(connection.id, None)

    async def _connect(self, connection: Connection, headers: dict[str, str], query: str) -> int | None:
        """Ask the function; the status to refuse with, or None."""
        pairs = parse_qsl(query, keep_blank_values=True)
        event: dict[str, Any] = {
            "headers": {name.title(): value for name, value in headers.items()},
            "multiValueHeaders": {name.title(): [value] for name, value in headers.items()},
        }
        if pairs:
            event["queryStringParameters"] = dict(pairs)
            event["multiValueQueryStringParameters"] = {
                name: [value for other, value in pairs if other == name] for name, _ in pairs
            }
        answer = await self._route(connection, CONNECT, event)
        if isinstance(answer, Exception):
            return 503 if isinstance(answer, Unreachable) else 500
        status = answer.get("statusCode", 200) if isinstance(answer, dict) else 500
        return None if 200 <= int(status) < 300 else int(status)

    async def _serve(self, connection: Connection, receive: Any) -> tuple[int, str]:
        """Pass messages on until the connection ends; how it ended."""
        waiting = asyncio.ensure_future(receive())
        while True:
            done, _ = await asyncio.wait([waiting], timeout=min(POLL_SECONDS, self.idle_seconds / 2))
            now = time.time()
            if connection.lost:  # whether or not it still sends
                waiting.cancel()
                return 1006, "Connection lost"
            if done:
                message = waiting.result()
                if message["type"] == "websocket.disconnect":
                    return message.get("code") or 1005, message.get("reason") or ""
                waiting = asyncio.ensure_future(receive())
                if not connection.closed:
                    connection.active_at = now
                    await self._message(connection, message)
            elif now - connection.active_at >= self.idle_seconds:
                await self._close(connection, 1001, "Idle timeout")
            if now - connection.connected_at >= self.maximum_seconds:
                await self._close(connection, 1001, "Connection duration limit")

    async def _message(self, connection: Connection, message: dict[str, Any]) -> None:
        text, data = message.get("text"), message.get("bytes")
        size = len(text.encode()) if text is not None else len(data or b"")
        if size > FRAME_BYTES:
            await self._close(connection, 1009, f"{size} bytes; the limit of a frame is {FRAME_BYTES}")
            return
        body = text if text is not None else base64.b64encode(data or b"").decode()
        answer = await self._route(connection, DEFAULT, {"body": body, "isBase64Encoded": text is None})
        if isinstance(answer, Exception):
            sorry = {
                "message": "Internal server error",
                "connectionId": connection.id,
                "requestId": str(uuid.uuid4()),
            }
            await self._send(connection, orjson.dumps(sorry).decode())

    async def _route(
        self, connection: Connection, route: str, event: Mapping[str, Any] | None = None, **context: Any
    ) -> Any:
        """Return what the route's function returns, or the exception that the invocation ended in."""
        now = datetime.now(UTC)
        request_context = {
            "routeKey": route,
            "eventType": EVENTS[route],
            "messageDirection": "IN",
            "connectionId": connection.id,
            "connectedAt": int(connection.connected_at * 1000),
            "domainName": self.domain,
            "stage": self.stage,
            "apiId": "local",
            "requestId": str(uuid.uuid4()),
            "extendedRequestId": str(uuid.uuid4()),
            "requestTime": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "requestTimeEpoch": int(now.timestamp() * 1000),
            "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
            **context,
        }
        if route == DEFAULT:
            request_context["messageId"] = secrets.token_urlsafe(11)
        payload = orjson.dumps({"isBase64Encoded": False, **(event or {}), "requestContext": request_context})
        try:
            return await asyncio.to_thread(partial(self.functions.invoke, FUNCTIONS[route], payload))
        except (FunctionFailed, Unreachable) as error:
            log.warning("%s: %s", route, error)
            return error

    async def _send(self, connection: Connection, text: str) -> bool:
        """Return whether the client took it."""
        if connection.closed:
            return False
        try:
            # Not in a task of its own: between the look above and the send, it could be closed.
            async with asyncio.timeout(SEND_SECONDS):
                await connection.send({"type": "websocket.send", "text": text})
        except (TimeoutError, OSError):
            connection.closed = connection.lost = True
            return False
        return True

    async def _close(self, connection: Connection, code: int, reason: str = "") -> None:
        if connection.closed:
            return
        connection.closed = True
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await connection.send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, OSError):
            connection.lost = True

    # The management API: POST, GET and DELETE /@connections/{id}

    async def _management(self, scope: Any, receive: Any, send: Any) -> None:
        _, found, connection_id = scope["path"].rpartition("/@connections/")
        if not found:
            await _answer(send, 403, {"message": "Missing Authentication Token"})
            return
        connection = self.connections.get(connection_id)
        if connection is None or connection.closed:
            await _answer(send, 410, {"message": "410 Gone"}, "GoneException")
            return
        match scope["method"]:
            case "POST":
                await self._push(connection, await _body(receive), send)
            case "GET":
                await _answer(send, 200, _description(connection))
            case "DELETE":
                await self._close(connection, 1000)
                await _answer(send, 204, None)
            case _:
                await _answer(send, 403, {"message": "Missing Authentication Token"})

    async def _push(self, connection: Connection, body: bytes, send: Any) -> None:
        if len(body) > PUSH_BYTES:
            message = f"the frame has {len(body)} bytes; the limit is {PUSH_BYTES}"
            await _answer(send, 413, {"message": message}, "PayloadTooLargeException")
        elif await self._send(connection, body.decode(errors="replace")):
            connection.active_at = time.time()
            await _answer(send, 200, None)
        else:
            await _answer(send, 410, {"message": "410 Gone"}, "GoneException")


def _description(connection: Connection) -> dict[str, Any]:
    def iso(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    return {
        "connectedAt": iso(connection.connected_at),
        "identity": {"sourceIp": connection.source_ip, "userAgent": connection.user_agent},
        "lastActiveAt": iso(connection.active_at),
    }


async def _body(receive: Any) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _answer(send: Any, status: int, document: Any, error_type: str = "") -> None:
    body = b"" if document is None else orjson.dumps(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error_type:
        headers.append((b"x-amzn-errortype", error_type.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Any, status: int) -> None:
    names = {401: "Unauthorized", 403: "Forbidden"}
    body = orjson.dumps({"message": names.get(status, "Internal server error"), "connectionId": ""})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
