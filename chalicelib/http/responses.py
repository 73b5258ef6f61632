"""How the API answers: JSON, refusals with a code and a message, and headers that let any page read them."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from chalice.app import Chalice, CORSConfig, Request, Response

from chalicelib.base.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    TidemarkError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from chalicelib.http.calls import Call

STATUS: Mapping[type[TidemarkError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    TooManyRequests: 429,
    Unavailable: 503,
}
# Bodies that API Gateway must hand on as bytes: what SDKs call their gzip. Chalice's own dozen of images and archives
# would be looked through three times a request.
BINARY_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded", "application/gzip")
# What a route with a body declares. Call.body checks it: Chalice refuses a route that lists types of both kinds, those
# that are handed on as bytes and those as text.
ANY_TYPE = ["*/*"]
Answer = dict[str, Any] | tuple[dict[str, Any], int] | Response  # of a route; 200 where it names no status
View = Callable[..., Answer]

_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self' ws: wss:; img-src data:"
)

log = logging.getLogger(__name__)


class Cors(CORSConfig):
    """Headers that are put together once: Chalice would do it for each answer."""

    @cached_property
    def _made(self) -> dict[str, str]:
        return super().get_access_control_headers()

    def get_access_control_headers(self) -> dict[str, str]:
        """Return a copy of them."""
        return dict(self._made)


# Any page's script may send and read, without cookies: a preflight's answer is fixed, so it cannot name the page.
CORS = Cors(
    allow_headers=[
        *("X-Retry-Count", "AnonymousId", "SentAt"),  # beside Chalice's own: what browser SDKs send
        *(f"Rsa-{name}" for name in ("Recovered", "Retry-Attempt", "Retry-Reason")),
        *("Rsa-Since-First-Attempt", "Rsa-Since-Last-Attempt"),
    ],
    expose_headers=["Retry-After", "X-RateLimit-Reset"],
    max_age=7200,  # what browsers remember at most
)


def routing(app: Chalice) -> Callable[..., Callable[[View], View]]:
    """Set up how the app answers; returns the decorator of its routes, `@rest("GET", "/analytics")`.

    A route is handed the Call and, unquoted, the parts of its path that vary.
    """
    app.experimental_feature_flags.update(["WEBSOCKETS"])
    app.api.binary_types[:] = BINARY_TYPES
    app.api.cors = CORS
    app.register_middleware(_every_answer, "http")

    def rest(method: str, path: str, name: str | None = None) -> Callable[[View], View]:
        options = {"content_types": ANY_TYPE} if method == "POST" else {}

        def register(view: View) -> View:
            app.route(path, methods=[method], name=name, **options)(_answered(app, view))
            return view

        return register

    return rest


def _answered(app: Chalice, view: View) -> Callable[..., Response]:
    """Answer domain errors with their status, and stores that fail with 503.

    Around each route, because Chalice makes a 500 of what escapes one.
    """

    @wraps(view)
    def serve(**parts: str) -> Response:
        request = app.current_request
        assert request is not None, "called outside of a request"
        try:
            answer = view(Call(request), **{name: unquote(part) for name, part in parts.items()})
        except (BotoCoreError, ClientError) as cause:
            log.warning("store failed", extra={"reason": str(cause), "path": request.path})
            return _refusal(Unavailable("storage did not respond; retry the request"))
        except TidemarkError as refusal:
            log.info("refused", extra={"code": refusal.code, "path": request.path})
            return _refusal(refusal)
        if isinstance(answer, Response):
            return answer
        return _json(*answer) if isinstance(answer, tuple) else _json(answer)

    return serve


def _every_answer(event: Request, get_response: Callable[[Request], Response]) -> Response:
    """Chalice's own errors in the form of ours; and every answer readable by its page."""
    response = get_response(event)
    if origin := event.headers.get("origin"):
        response.headers |= CORS.get_access_control_headers()  # errors of Chalice's own come without
        response.headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if isinstance(response.body, dict) and "Code" in response.body:
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", response.body["Code"].removesuffix("Error")).lower()
        response.body = {"code": code, "message": response.body["Message"]}
    return response


def query_answer(found: dict[str, Any]) -> Answer:
    """Return what became of a query; 202 while it goes on."""
    return found, 202 if found["state"] in ("QUEUED", "RUNNING") else 200


def page(path: Path) -> Response:
    """Return a web page of ours, which loads nothing from elsewhere."""
    headers: dict[str, str | list[str]] = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _PAGE_POLICY,
    }
    return Response(path.read_text(), headers=headers)


def _json(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(document).decode()
    return Response(body, status_code=status, headers={"Content-Type": "application/json", **(headers or {})})


def _refusal(error: TidemarkError) -> Response:
    return _json({"code": error.code, "message": error.message}, STATUS[type(error)], _retry_headers(error))


def _retry_headers(error: TidemarkError) -> dict[str, str]:
    """Return when to try again, in seconds, as the SDKs read it."""
    if error.retry_seconds is None:
        return {}
    seconds = str(error.retry_seconds)
    limited = {"X-RateLimit-Reset": seconds} if isinstance(error, TooManyRequests) else {}
    return {"Retry-After": seconds, **limited}
