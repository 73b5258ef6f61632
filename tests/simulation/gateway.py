"""API Gateway: requests of clients become events of the REST function, and frames those of the socket's functions."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.simulation.functions import Functions
from tests.simulation.scheduler import Scheduler, current

TIMEOUT_SECONDS = 29.0
REST = "api_handler"
CONNECT, MESSAGE, DISCONNECT = "socket_connect", "socket_message", "socket_disconnect"
FRAME_BYTES = 32 * 1024
_ROUTES = {
    CONNECT: ("$connect", "CONNECT"),
    MESSAGE: ("$default", "MESSAGE"),
    DISCONNECT: ("$disconnect", "DISCONNECT"),
}


@dataclass
class Answer:
    """Status and body; status 0 where nothing came back."""

    status: int
    body: Any = field(default_factory=dict)


class Gateway:
    """`routes` are the app's."""

    def __init__(self, functions: Functions, scheduler: Scheduler, routes: Mapping[str, Any]) -> None:
        self.functions, self.scheduler = functions, scheduler
        self.routes = sorted(routes, key=lambda path: path.count("{"))

    def request(self, method: str, path: str, key: str, body: Any = None, **query: str) -> dict[str, Any]:
        """The event that the REST function gets."""
        resource, parameters = self._route(path)
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        return {
            "resource": resource,
            "path": f"/api{path}",
            "httpMethod": method,
            "headers": {"x-api-key": key, "content-type": "application/json", "host": "sim.example"},
            "multiValueHeaders": {"x-api-key": [key], "content-type": ["application/json"], "host": ["sim.example"]},
            "queryStringParameters": query or None,
            "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} or None,
            "pathParameters": parameters or None,
            "stageVariables": None,
            "requestContext": {
                "resourcePath": resource,
                "httpMethod": method,
                "path": f"/api{path}",
                "stage": "api",
                "identity": {"sourceIp": "192.0.2.1", "userAgent": "simulation"},
            },
            "body": text,
            "isBase64Encoded": False,
        }

    def send(self, method: str, path: str, key: str, body: Any = None, **query: str) -> Answer:
        """Ask, from an actor, and wait; status 504 where the function takes too long, 502 where it fails."""
        caller = current()
        assert caller is not None
        outcome: list[Answer] = []

        def answered(answer: Answer) -> None:
            if not outcome:
                outcome.append(answer)
                self.scheduler.at(self.scheduler.now, caller.switch)

        def ended(result: Any, error: BaseException | None) -> None:
            answered(Answer(502) if error is not None else read(result))

        self.functions.invoke(REST, self.request(method, path, key, body, **query), ended, f"{method} {path}"[:22])
        self.scheduler.after(TIMEOUT_SECONDS, lambda: answered(Answer(504)))
        self.scheduler.wait()
        return outcome[0]

    def look(self, method: str, path: str, key: str, body: Any = None, **query: str) -> Answer:
        """Ask from outside: at once, and nothing goes wrong."""
        return read(self.functions.handlers[REST](self.request(method, path, key, body, **query), None))

    def frame(self, function: str, connection: str, ended: Callable[[Any, Any], None], **event: Any) -> None:
        """Invoke a function of the socket."""
        route, kind = _ROUTES[function]
        context = {"routeKey": route, "eventType": kind, "connectionId": connection}
        context |= {"domainName": "sim.example", "stage": "api", "apiId": "sim"}
        document = {"isBase64Encoded": False, "requestContext": context, "body": None, **event}
        self.functions.invoke(function, document, ended)

    def call_frame(self, function: str, connection: str, **event: Any) -> Any:
        """The same from an actor, which waits for what the function returns; None where it fails."""
        caller = current()
        assert caller is not None
        outcome: list[Any] = []

        def ended(result: Any, _error: BaseException | None) -> None:
            outcome.append(result)
            self.scheduler.at(self.scheduler.now, caller.switch)

        self.frame(function, connection, ended, **event)
        self.scheduler.wait()
        return outcome[0]

    def _route(self, path: str) -> tuple[str, dict[str, str]]:
        parts = path.split("/")
        for route in self.routes:
            names = route.split("/")
            if len(names) == len(parts) and all(n == p or n.startswith("{") for n, p in zip(names, parts, strict=True)):
                pairs = zip(names, parts, strict=True)
                return route, {name.strip("{}"): part for name, part in pairs if name.startswith("{")}
        raise KeyError(path)


def read(result: Any) -> Answer:
    """A REST answer as its client sees it."""
    body = result["body"]
    try:
        return Answer(result["statusCode"], json.loads(body) if body else {})
    except ValueError:
        return Answer(result["statusCode"], body)


def in_path(text: str) -> str:
    """A text as a part of a path."""
    return quote(text, safe="")
