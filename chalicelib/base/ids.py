"""Ids that we make."""

import secrets
import uuid


def new_event_id(received_ms: int) -> str:
    """Return a UUID version 7 (RFC 9562): time-ordered, 74 random bits."""
    random_bits = secrets.randbits(74)
    high, low = random_bits >> 62, random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=received_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low))


def new_container_id() -> str:
    """Return what a container counts under; of thousands in an hour no two have the same."""
    return secrets.token_hex(6)


def new_run_id() -> str:
    """Return what a run of a stage names its files by."""
    return secrets.token_hex(4)
