"""Where things lie in the data bucket."""

from collections.abc import Iterable
from hashlib import blake2b

from chalicelib.base.time_windows import MINUTE_MS, day_of, from_ms, hour_of_day

SPILL = "spill/"
UNREADABLE = "quarantine/unreadable/"
MINUTES_OF_DAY = 24 * 60
TAIL = "tail-"
HOUR_FILE = "hour-"  # sorts before TAIL


def project_folder(project: str) -> str:
    """Return the lake folder of a project, with a folder for each day."""
    return f"lake/project={project}/"


def hour_folder(project: str, hour: str) -> str:
    """Return the lake folder of an hour such as `2026-11-21T10`: `lake/project=demo/dt=2026-11-21/hr=10/`."""
    return f"lake/{_of_hour(project, hour)}"


def _of_hour(project: str, hour: str) -> str:
    return f"project={project}/dt={day_of(hour)}/hr={hour_of_day(hour)}/"


def day_folder(project: str, day: str) -> str:
    """Return the lake folder of a day such as `2026-11-21`, with a folder for each hour."""
    return f"lake/project={project}/dt={day}/"


def sessions_folder(project: str, day: str) -> str:
    """Return where the session parts of a day's hours lie: `sessions/project=demo/dt=2026-11-21/`."""
    return f"sessions/project={project}/dt={day}/"


def records_folder(project: str, hour: str) -> str:
    """Beside the lake: which stream records the versions of an hour hold. The bucket forgets them after a week."""
    return f"records/{_of_hour(project, hour)}"


def manifests_folder(project: str, hour: str) -> str:
    """Beside the lake: what the versions of an hour hold, and which files of before."""
    return f"manifests/{_of_hour(project, hour)}"


def tail_name(slot: int, first_event_id: str, content: bytes) -> str:
    """A tail file: the slot of its records, the first of them, and what is in it, so that a name stands for that."""
    return f"{TAIL}{slot:06d}-{first_event_id}-{_digest(content)}.parquet"


def slot_of_tail(name: str) -> int | None:
    """Return the slot of a tail file; None of one whose rows came with no stream record."""
    slot = name.removeprefix(TAIL).partition("-")[0]
    return int(slot) if slot.isdecimal() else None


def import_tail_name(run: str, content: bytes) -> str:
    """Return a tail file of an import; `run` is the same for a repeated task."""
    return f"{TAIL}import-{run}-{_digest(content)}.parquet"


def hour_file_name(version: str, part: int) -> str:
    """Return a file of one version of an hour."""
    return f"{HOUR_FILE}{version}-{part:04d}.parquet"


def version_name(now_ms: int, run: str) -> str:
    """Return what the files of one version share: when its consolidation began, and a name of its own."""
    return f"{now_ms:013d}-{run}"


def version_of(name: str) -> str | None:
    """Return the version of an hour file; None of a tail file."""
    return name.removeprefix(HOUR_FILE).rsplit("-", 1)[0] if name.startswith(HOUR_FILE) else None


def began_ms_of(version: str) -> int:
    """Return when the consolidation of a version began."""
    return int(version[:13])


def files_of_version(files: Iterable[str], version: str | None) -> list[str]:
    """Return those of an hour's files that are a version's, in order."""
    return sorted(name for name in files if version is not None and version_of(name) == version)


def quarantine_folder(project: str) -> str:
    """Return what was rejected of a project."""
    return f"quarantine/project={project}/"


def quarantine_key(project: str, received_ms: int, content: bytes) -> str:
    """A rejected share of a request, by day and minute, the last minute first: S3 lists names in ascending order.

    Named by its content, too, so that a request that is sent again at once lies there once.
    """
    day = from_ms(received_ms)
    return f"{quarantine_folder(project)}{day:dt=%Y-%m-%d}/{reversed_minute(received_ms)}-{_digest(content)}.ndjson.gz"


def reversed_minute(ms: int) -> str:
    """Return the minutes from the instant's own to the last of its UTC day: 1439 for 00:00, 0000 for 23:59."""
    return f"{MINUTES_OF_DAY - 1 - ms // MINUTE_MS % MINUTES_OF_DAY:04d}"


def unreadable_key(name: str) -> str:
    """Return what no stage could read, whose project is therefore not known."""
    return f"{UNREADABLE}{name}"


def spill_key(project: str, content: bytes) -> str:
    """Parcels that the buffer refused."""
    return f"{SPILL}{project}/{_digest(content)}"


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
