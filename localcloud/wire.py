"""Calls the cloud's JSON APIs and the app's functions over kept-alive loopback connections, one per thread.

The pumps poll often and hand records on unchanged, so they take the bytes of the wire: a stream record is, there, what
Lambda gives to a function.
"""

import http.client
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson

from localcloud.places import HOST, REGION

CALL_SECONDS = 30.0
GRACE_SECONDS = 5.0  # beyond a function's time-out, at which its process ends and the connection with it
# MiniStack reads the access key and the region from it, and checks no signature.
AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential=test/20250101/{REGION}/{{}}/aws4_request, SignedHeaders=host, Signature=0"
CONTENT_TYPES = {
    "sqs": "application/x-amz-json-1.0",
    "dynamodb": "application/x-amz-json-1.0",
    "kinesis": "application/x-amz-json-1.1",
}


class ApiError(Exception):
    """The cloud refused a call; `code` is AWS's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Unreachable(Exception):
    """Nothing listens: the request was not delivered."""


class FunctionFailed(Exception):
    """The function raised, ran out of time, or was lost with its process.

    `error_type` is the name of what it raised, or Lambda's for what it did not live to raise.
    """

    def __init__(self, what: str, error_type: str = "Lambda.Unknown", message: str = "") -> None:
        super().__init__(what)
        self.error_type = error_type
        self.message = message or what


class _Held:
    """A thread's connection, which is closed when the thread is gone."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class Endpoint:
    """POSTs to one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._local = threading.local()

    def post(self, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, Any, bytes]:
        """Status, headers and body; raises Unreachable, or OSError or HTTPException when the connection is lost."""
        connection = self.connect(seconds)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except BaseException:
            self._local.held = None
            raise

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        """This thread's connection, open; raises Unreachable."""
        held: _Held | None = getattr(self._local, "held", None)
        # Readable while nothing is awaited means that the other side closed it.
        if held and held.connection.sock and not select.select([held.connection.sock], [], [], 0)[0]:
            held.connection.sock.settimeout(seconds)
            return held.connection
        connection = http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        try:
            connection.connect()
        except OSError as error:
            raise Unreachable(f"nothing listens at port {self.port}") from error
        self._local.held = _Held(connection)
        return connection


class CloudApi:
    """The cloud's SQS, DynamoDB Streams and Kinesis."""

    def __init__(self, port: int) -> None:
        self._endpoint = Endpoint(port)

    def sqs(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return one SQS call."""
        return self._call("sqs", f"AmazonSQS.{action}", parameters)

    def streams(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return one DynamoDB Streams call."""
        return self._call("dynamodb", f"DynamoDBStreams_20120810.{action}", parameters)

    def kinesis(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return one Kinesis call."""
        return self._call("kinesis", f"Kinesis_20131202.{action}", parameters)

    def _call(self, service: str, target: str, parameters: dict[str, Any]) -> dict[str, Any]:
        headers = {
            "x-amz-target": target,
            "content-type": CONTENT_TYPES[service],
            "authorization": AUTHORIZATION.format(service),
        }
        status, _, body = self._endpoint.post("/", orjson.dumps(parameters), headers, CALL_SECONDS)
        answer: dict[str, Any] = orjson.loads(body or b"{}")
        if status != 200:
            code = str(answer.get("__type") or answer.get("code") or status).rpartition("#")[2]
            raise ApiError(code, str(answer.get("message") or answer.get("Message") or ""))
        return answer


class FunctionsApi:
    """The functions process, which is away for a moment at every change of the source."""

    def __init__(self, port: int, timeout_seconds: float = 60.0) -> None:
        self._endpoint = Endpoint(port)
        self._timeout_seconds = timeout_seconds
        self.timeouts: dict[str, float] = {}  # of the functions that have their own

    def invoke(self, name: str, payload: bytes) -> Any:
        """Invoke a function, and return its value; raises FunctionFailed, or Unreachable when it was not called."""
        seconds = self.timeouts.get(name, self._timeout_seconds) + GRACE_SECONDS
        path = f"/2015-03-31/functions/{name}/invocations"
        try:
            status, headers, body = self._endpoint.post(path, payload, {"content-type": "application/json"}, seconds)
        except TimeoutError as error:
            raise FunctionFailed(f"{name} did not answer within {seconds:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise FunctionFailed(f"{name} was lost with its process ({type(error).__name__})") from error
        answer: Any = orjson.loads(body) if body else None
        if status == 404:
            raise FunctionFailed(f"there is no function {name}")
        if headers.get("X-Amz-Function-Error") and isinstance(answer, dict):
            kind, message = str(answer.get("errorType")), str(answer.get("errorMessage"))
            raise FunctionFailed(f"{name} raised {kind}: {message}", kind, message)
        return answer

    def longest_seconds(self) -> float:
        """No invocation takes longer."""
        return max([self._timeout_seconds, *self.timeouts.values()]) + GRACE_SECONDS

    def reachable(self) -> bool:
        """Return whether the process listens."""
        try:
            self._endpoint.connect(1.0)
        except Unreachable:
            return False
        return True

    def wait_reachable(self, give_up: Callable[[], bool]) -> bool:
        """Wait until the process listens; False when `give_up` says so first."""
        while not self.reachable():
            if give_up():
                return False
            time.sleep(0.05)
        return True
