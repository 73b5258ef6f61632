"""Which of the lake's files a query sees, so that it finds each event once while hours are being consolidated.

Two kinds of hours:
- settled: the files of one version, and nothing else. Seen are hour files whose version is older than the query, so
  that neither a tail file nor a version that comes meanwhile is.
- unsettled: one version, or none, beside files that it replaced and tails that it has not taken in yet. Seen are the
  files of the version and those tails, by name. They may hold an event more than once: its copies are left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chalicelib.base import waits
from chalicelib.base.object_keys import HOUR_FILE, TAIL
from chalicelib.base.time_windows import day_of

MAX_NAMED_HOURS = 2000  # by name in a query, whose text is limited; some 60 bytes each
MAX_NAMED_TAILS = 500  # some 90 bytes each


@dataclass(frozen=True, slots=True)
class UnsettledHour:
    """An hour that is not settled; `tails` are those that its version does not hold, or None for any tail."""

    hour: str
    version: str | None = None
    tails: Sequence[str] | None = None
    replaced: bool = True  # whether files may lie there that are not the version's

    @property
    def is_plain(self) -> bool:
        """Whether the folder holds the version's files only, so that they need not be named."""
        return not self.replaced and self.version is not None and not self.tails and self.tails is not None


@dataclass(frozen=True, slots=True)
class VisibleFiles:
    """What a query that begins at `now_ms` sees of a project's lake; `hours` are those that are not settled."""

    now_ms: int
    hours: Sequence[UnsettledHour] = ()

    @property
    def unlimited(self) -> bool:
        """More hours are unsettled than a query can name, as after years of imports: copies are left out everywhere."""
        return len(self.hours) > MAX_NAMED_HOURS

    def settled(self, name: str) -> str:
        """The condition, in Athena's SQL, on rows of settled hours; `name` is an expression of the file's name."""
        old = f"{name} < '{HOUR_FILE}{self.now_ms - waits.VISIBLE_AGE_MS:013d}'"
        return f"{old} AND NOT ({_in_hours(o.hour for o in self.hours)})" if self.hours else old

    def unsettled(self, name: str) -> str:
        """Return the condition on rows of unsettled hours, of which some may be there more than once."""
        named = sorted(self.hours, key=lambda hour: hour.is_plain)[:MAX_NAMED_HOURS]
        hours = _in_hours(hour.hour for hour in named)
        seen = f"({hours}) AND ({' OR '.join(f'({condition})' for condition in _conditions(named, name))})"
        if not self.unlimited:
            return seen
        # Of the hours that cannot be named every file is read, absorbed ones too: copies are left out everywhere then.
        any_file = f"{name} LIKE '{HOUR_FILE}%' OR {name} LIKE '{TAIL}%'"
        return f"({seen}) OR (({any_file}) AND NOT ({hours}))"


def _conditions(hours: Sequence[UnsettledHour], name: str) -> list[str]:
    versions = [hour.version for hour in hours if hour.version is not None]
    tails: list[str] = []
    any_tail: list[str] = []
    for hour in hours:
        if hour.tails is None or len(tails) + len(hour.tails) > MAX_NAMED_TAILS:
            any_tail.append(hour.hour)
        else:
            tails += hour.tails
    found = []
    if versions:  # a version's name is its own among all hours'
        found.append(f"regexp_extract({name}, '^{HOUR_FILE}(.+)-[0-9]+[.]parquet$', 1) IN ({_list(versions)})")
    if tails:
        found.append(f"{name} IN ({_list(tails)})")
    if any_tail:
        found.append(f"{name} LIKE '{TAIL}%' AND ({_in_hours(any_tail)})")
    return found or ["FALSE"]


def _in_hours(hours: Iterable[str]) -> str:
    """Flat lists, for a parser's depth is limited; the days by themselves, so that others are not looked into."""
    names = sorted(hours)
    days = dict.fromkeys(day_of(name) for name in names)
    return f"dt IN ({_list(days)}) AND dt || 'T' || hr IN ({_list(names)})"


def _list(texts: Iterable[str]) -> str:
    return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
