"""Where things lie in the data bucket."""

from hashlib import blake2b

from chalicelib.domain.time_windows import from_ms

SPILL = "spill/"


def lake_folder(project: str, occurred_ms: int) -> str:
    """The lake folder of an event: `lake/project=demo/dt=2026-11-21/hr=10/`."""
    return f"lake/project={project}/{from_ms(occurred_ms):dt=%Y-%m-%d/hr=%H}/"


def tail_key(folder: str, first_event_id: str) -> str:
    """A tail file is named by the first record of its stream batch, so a retried batch rewrites it."""
    return f"{folder}tail-{first_event_id}.parquet"


def quarantine_key(project: str, received_ms: int, content: bytes) -> str:
    """A rejected share of a request, named by its content, so that the same request lies there once a day."""
    return f"quarantine/project={project}/{from_ms(received_ms):dt=%Y-%m-%d}/{_digest(content)}.ndjson.gz"


def unreadable_key(name: str) -> str:
    """What no stage could read, whose project is therefore not known."""
    return f"quarantine/unreadable/{name}"


def spill_key(project: str, content: bytes) -> str:
    """Parcels that the buffer refused."""
    return f"{SPILL}{project}/{_digest(content)}"


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
