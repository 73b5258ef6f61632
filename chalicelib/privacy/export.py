"""All that is kept, for those whose it is: of a user as JSON, of a project as Parquet files, each event once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chalicelib.base.object_keys import TAIL, hour_folder
from chalicelib.base.time_windows import HOUR_MS, day_start_ms, hours_between, iso_ms
from chalicelib.events.erasure import FOR_EVER_MS
from chalicelib.events.events import moment_of
from chalicelib.events.events_table import EventsTable
from chalicelib.events.users_table import UsersTable
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import COMPRESSION, DICTIONARY, SORTED_BY, Lake
from chalicelib.lake.user_rows import UserRows
from chalicelib.rollups.hours_table import HoursTable

MERGED = "merged.parquet"  # of an hour that is not one version yet


@dataclass(frozen=True, slots=True)
class Exporter:
    """Reads; writes nothing but the export. `rejected` has a user's rejected events, of a project and some ids."""

    lake: Lake
    folders: HourFolders
    hours: HoursTable
    events: EventsTable
    users: UsersTable
    ids_of: Callable[[str, str], Sequence[str]]  # the user's own, and those before it
    rejected: Callable[[str, Sequence[str]], Iterator[dict[str, Any]]]

    def user(self, project: str, user: str, days: Sequence[str], each_day: Callable[[], object]) -> dict[str, Any]:
        """Traits, ids, and the events of these days of the lake and of the events table, in order of time.

        `each_day` is called after each day that was looked through.
        """
        ids = self.ids_of(project, user)
        events: dict[str, dict[str, Any]] = {}
        for day in days:
            for received_ms, event in self._of_day(project, ids, day):
                events.setdefault(event["event_id"], {**event, "received_at": iso_ms(received_ms)})
            each_day()
        for chunk in self.events.chunks(project, ids):  # what is not in the lake yet
            for event in chunk.events:
                events.setdefault(event["event_id"], {**event, "received_at": iso_ms(chunk.received_ms)})
        traits = self.users.traits(project, user)
        return {
            "user_id": user,
            "previous_ids": list(ids[1:]),
            "traits": {name: value for name, (_, value) in sorted(traits.items()) if value is not None},
            "events": [
                {**event, "occurred_at": iso_ms(event["occurred_at"])}
                for event in sorted(events.values(), key=moment_of)
            ],
            "rejected": list(self.rejected(project, ids)),
        }

    def hour(self, project: str, hour: str, target: Path) -> int:
        """Write an hour's events, each once, below the folder, as they lie in the lake; returns how many.

        What an earlier export wrote of the hour is replaced. Nothing is written of an hour without events.
        """
        folder, files = hour_folder(project, hour), self._files(project, hour)
        there = target / folder.removeprefix("lake/")
        written, rows = set[str](), 0
        if files:
            there.mkdir(parents=True, exist_ok=True)
            written, rows = self._write(folder, files, there)
        for path in there.glob("*.parquet"):
            if path.name not in written:
                path.unlink()
        return rows

    def days(self, project: str, target: Path) -> list[str]:
        """Return the days that an earlier export wrote."""
        return [path.name.removeprefix("dt=") for path in (target / f"project={project}").glob("dt=*")]

    def _write(self, folder: str, files: dict[str, int], there: Path) -> tuple[set[str], int]:
        """The names of what was written, and how many rows it has."""
        if any(name.startswith(TAIL) for name in files):
            merge = self.lake.merge(folder, files)
            with pq.ParquetWriter(
                there / MERGED,
                merge.schema,
                compression=COMPRESSION,
                use_dictionary=DICTIONARY,
                sorting_columns=SORTED_BY,
            ) as writer:
                for batch in merge.slices():
                    writer.write_batch(batch)
            return {MERGED}, merge.rows
        for name in files:
            (there / name).write_bytes(self.lake.bucket.get(folder + name) or b"")
        return set(files), self.lake.count(folder, files).rows

    def _of_day(self, project: str, ids: Sequence[str], day: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = UserRows(dict.fromkeys(ids, FOR_EVER_MS))
        start_ms = day_start_ms(day)
        for hour in hours_between(start_ms, start_ms + 24 * HOUR_MS):
            folder, files = hour_folder(project, hour), self._files(project, hour)
            theirs = [folder + name for name, size in files.items() if self.lake.rows_of(folder + name, size, rows)]
            for row in self.lake.rows_by(theirs, rows):
                yield row.received_ms, row.event

    def _files(self, project: str, hour: str) -> dict[str, int]:
        """Return those that hold the hour as it is now."""
        return self.folders.files(self.hours, project, hour)[1]
