"""Which of the lake's files a query sees, so that it finds each event once while hours are being consolidated.

Three kinds of hours:
- settled: the files of one version. Seen are hour files whose version is older than the query, so that neither a tail
  file nor a version that comes meanwhile is.
- consolidated, with files that are yet to be deleted, and perhaps new tail files: seen are the current version's files
  and the tail files with later names than what it absorbed.
- fresh: all files are seen, for nothing is deleted before the next version has been there for a while.
What is seen of the second and third kind may hold an event more than once, and is read with its copies left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from chalicelib.domain.partitions import HOUR_FILE

# Half of the time for which absorbed files are kept: clocks may differ by as much, in both directions.
SNAPSHOT_AGE_MS = 30 * 60_000
MAX_NAMED_HOURS = 200  # by name in a query; with more, as after an import of years, copies are left out everywhere


@dataclass(frozen=True, slots=True)
class Open:
    """An hour that is not settled; `version` is None while it is fresh."""

    hour: str
    version: str | None = None
    upto: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a project's lake is to a query that begins at `now_ms`."""

    now_ms: int
    open: Sequence[Open] = ()

    @property
    def unlimited(self) -> bool:
        """More hours are open than a query can name."""
        return len(self.open) > MAX_NAMED_HOURS

    def settled(self, name: str) -> str:
        """The condition, in Athena's SQL, on rows of settled hours; `name` is an expression of the file's name."""
        old = f"{name} < '{HOUR_FILE}{self.now_ms - SNAPSHOT_AGE_MS:013d}'"
        return f"{old} AND NOT ({_hours([o.hour for o in self.open])})" if self.open else old

    def unsettled(self, name: str) -> str:
        """The condition on rows of open hours, of which some may be there more than once."""
        if self.unlimited:
            return "TRUE"
        fresh = [o.hour for o in self.open if o.version is None]
        seen = [_hours(fresh)] if fresh else []
        for hour in self.open:
            if hour.version is not None:
                current = f"{name} LIKE '{HOUR_FILE}{hour.version}-%'"
                seen.append(f"({_hours([hour.hour])}) AND ({current} OR {name} > '{_quoted(hour.upto)}')")
        return " OR ".join(f"({condition})" for condition in seen)


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _hours(hours: Sequence[str]) -> str:
    return " OR ".join(_days(hours))


def _days(hours: Sequence[str]) -> Iterator[str]:
    for day, found in groupby(sorted(hours), key=lambda hour: hour[:10]):
        yield f"dt = '{day}' AND hr IN ({', '.join(repr(hour[11:]) for hour in found)})"
