"""What is measured: realistic events, and the requests, messages and records they travel in."""

import random
import uuid
from base64 import b64encode
from typing import Any

import orjson

from chalicelib.events.chunks import Message, chunks_of, encode_message
from chalicelib.events.enrichment import Client
from chalicelib.rollups.ledger import Receipt

RECEIVED_MS = 1_795_226_700_123
SEED = 1
USER_AGENT = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0"
CLIENT = Client("203.0.113.0", "5d41402abc4b2a76", "DE", USER_AGENT)


def events(count: int, users: int) -> list[dict[str, Any]]:
    """Page views and API requests of some users, as clients send them."""
    rng = random.Random(SEED)
    found = []
    for n in range(count):
        page = n % 3 != 0
        properties: dict[str, Any] = {"path": f"/products/{rng.randrange(200)}", "title": "A product", "country": "DE"}
        if not page:
            properties = {
                "method": "GET",
                "route": "/v1/items",
                "status": 200,
                "latency_ms": rng.lognormvariate(4, 0.6),
            }
        found.append(
            {
                "event_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                "event_type": "page_view" if page else "api_request",
                "user_id": f"user-{rng.randrange(users)}",
                "timestamp": "2026-11-21T02:04:59.500Z",
                "properties": properties,
                "context": {"locale": "de-DE", "library": {"name": "sdk", "version": "1.2.3"}},
            }
        )
    return found


def rest_event(body: bytes) -> dict[str, Any]:
    """POST /events as API Gateway hands it to the function."""
    return {
        "requestContext": {
            "httpMethod": "POST",
            "resourcePath": "/events",
            "path": "/events",
            "identity": {"sourceIp": "203.0.113.7"},
        },
        "headers": {"x-api-key": "bench", "content-type": "application/json", "user-agent": USER_AGENT},
        "multiValueQueryStringParameters": None,
        "pathParameters": {},
        "stageVariables": {},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def body(batch: list[dict[str, Any]]) -> bytes:
    """Return a request's body."""
    return orjson.dumps({"events": batch})


def stored(batch: list[dict[str, Any]], number: int) -> Message:
    """The message that `collect` makes of a batch, of which it had so many before."""
    events = [{**event, "occurred_at": RECEIVED_MS - 623} for event in batch]
    return Message("bench", RECEIVED_MS, events, Receipt("c0ffee00", received=(number + 1) * len(batch)), CLIENT)


def queue_records(batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what `process` is handed."""
    texts = [text for number, batch in enumerate(batches) for text, _ in encode_message(stored(batch, number))]
    return [{"messageId": str(n), "body": text} for n, text in enumerate(texts)]


def stream_records(batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what `aggregate` is handed."""
    chunks = [chunk for number, batch in enumerate(batches) for chunk in chunks_of(stored(batch, number))]
    return [
        {
            "eventID": str(n),
            "eventName": "INSERT",
            "dynamodb": {
                "SequenceNumber": str(n + 1),
                "ApproximateCreationDateTime": chunk.received_ms // 1000,
                "NewImage": {
                    "sk": {"S": chunk.sort_key},
                    "project": {"S": chunk.project},
                    "user": {"S": chunk.user or ""},
                    "received_at": {"N": str(chunk.received_ms)},
                    "receipt": {"S": str(chunk.receipt)},
                    "position": {"N": str(chunk.position)},
                    "body": {"B": b64encode(chunk.body).decode()},
                },
            },
        }
        for n, chunk in enumerate(chunks)
    ]
