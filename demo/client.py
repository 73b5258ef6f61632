"""A small HTTP client that keeps its connection, of the standard library: the demo needs nothing of the app's."""

import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30  # API Gateway answers within 29


class DemoError(Exception):
    """What ends the demo, in words for the person who runs it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read to its end. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection to the stack, made when it is needed; not for use by several threads."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DemoError(f"{url!r} is no address of the stack; it is like http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(parts.hostname, parts.port, timeout=timeout_seconds)
        self.path = parts.path.rstrip("/")

    def request(self, method: str, path: str, *, key: str = "", body: bytes | None = None) -> Answer:
        """Make one exchange; raises OSError or http.client.HTTPException when there is no whole answer."""
        headers = {"x-api-key": key} if key else {}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            self.connection.request(method, self.path + path, body, headers)
            response = self.connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()  # the next request makes a new one
            raise
        return answer

    def close(self) -> None:
        """Give the connection back."""
        self.connection.close()
