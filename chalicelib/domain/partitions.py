"""Where things lie in the data bucket."""

from hashlib import blake2b

from chalicelib.domain.time_windows import MINUTE_MS, from_ms

SPILL = "spill/"
UNREADABLE = "quarantine/unreadable/"
MINUTES_OF_DAY = 24 * 60


def lake_folder(project: str, occurred_ms: int) -> str:
    """The lake folder of an event: `lake/project=demo/dt=2026-11-21/hr=10/`."""
    return f"lake/project={project}/{from_ms(occurred_ms):dt=%Y-%m-%d/hr=%H}/"


def tail_key(folder: str, first_event_id: str) -> str:
    """A tail file is named by the first record of its stream batch, so a retried batch rewrites it."""
    return f"{folder}tail-{first_event_id}.parquet"


def quarantine_folder(project: str) -> str:
    """What was rejected of a project."""
    return f"quarantine/project={project}/"


def quarantine_key(project: str, received_ms: int, content: bytes) -> str:
    """A rejected share of a request, by day and minute, the last minute first: S3 lists names in ascending order.

    Named by its content, too, so that a request that is sent again at once lies there once.
    """
    day = from_ms(received_ms)
    return f"{quarantine_folder(project)}{day:dt=%Y-%m-%d}/{reversed_minute(received_ms)}-{_digest(content)}.ndjson.gz"


def reversed_minute(ms: int) -> str:
    """The minutes from the instant's own to the last of its UTC day: 1439 for 00:00, 0000 for 23:59."""
    return f"{MINUTES_OF_DAY - 1 - ms // MINUTE_MS % MINUTES_OF_DAY:04d}"


def unreadable_key(name: str) -> str:
    """What no stage could read, whose project is therefore not known."""
    return f"{UNREADABLE}{name}"


def spill_key(project: str, content: bytes) -> str:
    """Parcels that the buffer refused."""
    return f"{SPILL}{project}/{_digest(content)}"


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
