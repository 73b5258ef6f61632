"""What happens on a socket, and what API Gateway is answered."""

from typing import Any

from chalice.app import WebsocketEvent

from chalicelib import wiring
from chalicelib.base.clock import now_ms
from chalicelib.base.errors import Unauthenticated
from chalicelib.base.time_windows import from_ms


def connect(event: WebsocketEvent) -> dict[str, Any]:
    """Register a connection whose ticket is good."""
    ticket = (event.to_dict().get("queryStringParameters") or {}).get("ticket")
    now = from_ms(now_ms())
    try:
        wiring.stages().subscriber.connect(event.connection_id, event.domain_name, event.stage, ticket, now)
    except Unauthenticated:
        return {"statusCode": 401}
    return {"statusCode": 200}


def message(event: WebsocketEvent) -> dict[str, Any]:
    """Answer a frame."""
    now = from_ms(now_ms())
    wiring.stages().subscriber.message(event.connection_id, event.body, now, event.domain_name, event.stage)
    return {"statusCode": 200}


def disconnect(event: WebsocketEvent) -> dict[str, Any]:
    """Forget a connection."""
    wiring.stages().subscriber.disconnect(event.connection_id)
    return {"statusCode": 200}
