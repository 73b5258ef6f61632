"""The tail files of an hour become one sorted version of it, in which each event is once.

A consolidation unites the current version with the tails that its manifest does not name, writes the files of a new
version and its manifest beside what is there, and makes it the current one with one conditional write. What it took in
is deleted when no query can be reading it any more. A run that dies leaves files that nobody reads.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chalicelib.base import waits
from chalicelib.base.object_keys import began_ms_of, hour_folder, slot_of_tail, version_name, version_of
from chalicelib.events.erased_users import ErasedUsers
from chalicelib.events.erasure import digest_of_user
from chalicelib.events.erasures_table import ErasuresTable
from chalicelib.lake.hour_folders import Held, HourFolders
from chalicelib.lake.lake import HourFiles, Lake
from chalicelib.lake.manifests import Manifest, ManifestGone
from chalicelib.lake.record_sets import Records, RecordSets, signature_of, union
from chalicelib.lake.user_rows import ErasedRows
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable
from chalicelib.rollups.signatures import NOTHING, Signature, is_forgotten

MAX_FILES = 128  # open at a time: some 2 MB each
MAX_TRIES = 4  # at an hour that other runs consolidate at the same time

log = logging.getLogger(__name__)


class Overtaken(Exception):
    """Other consolidations of the hour committed each time; the hour is to come again."""


class TooLate(Exception):
    """The consolidation took so long that files it read may be deleted; nothing has changed for readers."""


@dataclass(frozen=True, slots=True)
class Consolidated:
    """A version that holds every event that was there before, once, in order of (occurred_at, event_id).

    `merged` is how many files were read for it: 0 when there was nothing to do.
    """

    project: str
    hour: str
    version: str | None
    files: HourFiles
    duplicates: int = 0
    merged: int = 0

    def row(self) -> dict[str, Any]:
        """For logs and the operator."""
        return {
            "project": self.project,
            "hour": self.hour,
            "rows": self.files.rows,
            "duplicates": self.duplicates,
            "merged": self.merged,
            "files": len(self.files.keys),
            "size_bytes": self.files.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class Consolidator:
    """Makes versions of hours; times are Unix milliseconds."""

    lake: Lake
    folders: HourFolders
    records: RecordSets
    hours: HoursTable
    erased: ErasedUsers
    erasures: ErasuresTable
    new_run: Callable[[], str]
    clock: Callable[[], float] = time.monotonic

    def consolidate(self, project: str, hour: str, now_ms: int, *, anew: bool = False) -> Consolidated:
        """Unite what the hour's version does not hold with it; with `anew`, write it also where there is nothing new.

        Of erased users nothing is left in what is written. Raises Overtaken, TooLate or storage.merging.Unordered.
        """
        started = self.clock()
        for _ in range(MAX_TRIES):
            before = self.hours.get(project, hour)
            # After the version, so that a run that follows an erasure's knows of the erased.
            markers = self.erased.markers(project)
            try:
                held = self.folders.held(before)
            except ManifestGone:
                if self.hours.get(project, hour).version == before.version:
                    self._take_up(before, self.folders.held(replace(before, version=None)), now_ms)
                continue
            if self._take_up(before, held, now_ms):
                continue
            if not held.fresh and not (anew and held.current):
                files = self.lake.count(hour_folder(project, hour), held.current)
                return Consolidated(project, hour, before.version, files)
            self.hours.begin(before, now_ms)
            without = ErasedRows(project, markers) if markers else None
            made = self._unite(before, held, without, now_ms, started)
            if made is not None:
                if without:
                    self._tell_of(without)
                return made
        raise Overtaken(f"others consolidated {project} {hour} during each of {MAX_TRIES} tries; run it again")

    def _take_up(self, hour: Hour, held: Held, now_ms: int) -> bool:
        """Make the newest version the hour's that holds more, as after its item was lost; whether there was one."""
        newer = self.folders.newer(hour, held)
        if newer is not None:
            extra = {"project": hour.project, "hour": hour.hour, "version": newer}
            log.warning("a version is taken up that the hour's item does not name", extra=extra)
            self.hours.commit(hour, newer, now_ms)
        return newer is not None

    def clean(self, hour: Hour, now_ms: int) -> bool:
        """Delete what no query can be reading any more; whether the version's files are all that is left.

        A tail that nobody has noted, because its process died, makes the hour dirty. Raises ManifestGone.
        """
        held = self.folders.held(hour)
        if held.fresh and not hour.is_dirty:
            self.hours.note(hour.project, hour.hour)
        folder = hour_folder(hour.project, hour.hour)
        left, strays = dict(held.others), self.folders.strays(hour, held)
        for name in held.others:
            version = version_of(name)
            if version in strays:
                log.warning("files that no item names are kept", extra={"hour": hour.hour, "version": version})
                continue
            if version is None:
                until_ms = held.manifest.absorbed[name] + waits.GRACE_MS
            elif version in held.manifest.superseded:
                until_ms = held.manifest.superseded[version] + waits.GRACE_MS
            else:
                until_ms = began_ms_of(version) + waits.ORPHAN_MS
            if until_ms <= now_ms:
                self.lake.delete(folder + name)
                del left[name]
        if not left and not held.fresh:
            self._forget_versions(hour, now_ms)
        return not left and not held.fresh

    def _forget_versions(self, hour: Hour, now_ms: int) -> None:
        """Remove the manifests and records of versions that have no files any more, those of overtaken runs as well."""
        for version in self.folders.manifests.versions(hour.project, hour.hour):
            is_before = hour.version is not None and version < hour.version
            if is_before or (version != hour.version and began_ms_of(version) + waits.ORPHAN_MS <= now_ms):
                self.records.delete(hour.project, hour.hour, version)
                self.folders.manifests.delete(hour.project, hour.hour, version)

    def _unite(
        self, before: Hour, held: Held, without: ErasedRows | None, now_ms: int, started: float
    ) -> Consolidated | None:
        """Write and commit a version; None when another one was committed since the hour was read."""
        project, hour = before.project, before.hour

        def in_time() -> None:
            if self.clock() - started > waits.MAX_RUN_MS / 1000:
                raise TooLate(f"{project} {hour} took more than {waits.MAX_RUN_MS // 1000} s; nothing was changed")

        # Later than the version that it follows, whatever the clocks: so that a name says which of two is older.
        began_ms = max(now_ms, began_ms_of(before.version) + 1 if before.version else 0)
        folder, version = hour_folder(project, hour), version_name(began_ms, self.new_run())
        records, signatures = self._records(before, held, now_ms)
        rest, duplicates = self._gather(folder, {**held.current, **held.fresh}, version, without, in_time)
        merge = self.lake.merge(folder, rest, without)
        made = self.lake.write_hour(folder, version, merge, in_time)
        ended_ms = now_ms + int((self.clock() - started) * 1000)
        manifest = Manifest(
            absorbed=_known(held, now_ms) | dict.fromkeys(held.fresh, ended_ms),
            superseded=_superseded(held.manifest, before.version, ended_ms),
            signatures=signatures,
        )
        self.folders.manifests.write(project, hour, version, manifest)  # first: by it a dead run's records are found
        self.records.write(project, hour, version, records)
        if not self.hours.commit(before, version, ended_ms):
            return None
        read = len(held.current) + len(held.fresh)
        done = Consolidated(project, hour, version, made, duplicates + merge.duplicates, read)
        log.info("hour consolidated", extra=done.row())
        return done

    def _tell_of(self, without: ErasedRows) -> None:
        """Say in the receipts of erasures that go on what was left out."""
        for digest, count in without.counts.items():
            for one in self.erasures.open_of_project(without.project):  # of whom it may be an earlier id
                if digest in {digest_of_user(one.project, each) for each in one.ids}:
                    self.erasures.removed(one, "lake", count)

    def _records(self, before: Hour, held: Held, now_ms: int) -> tuple[dict[int, Records], dict[int, Signature]]:
        """Return the stream records by slot, as far as a slot may still grow, and the signature of every slot."""
        folder = hour_folder(before.project, before.hour)
        sets: dict[int, list[Records]] = {}
        for name, size in held.fresh.items():
            slot = slot_of_tail(name)
            if slot is not None:
                sets.setdefault(slot, []).append(self.lake.records(folder + name, size))
        known = self.records.read(before.project, before.hour, before.version)
        signatures = dict(held.manifest.signatures)
        united = {slot: union([known[slot], *sets.pop(slot, [])]) for slot in known}
        for slot, some in sets.items():
            fresh = union(some)
            if slot in signatures:  # whose records the bucket has forgotten: nothing of them can come again
                signatures[slot] += signature_of(fresh)
            else:
                united[slot] = fresh
        signatures |= {slot: signature_of(each) for slot, each in united.items()}
        growing = {slot: each for slot, each in united.items() if not is_forgotten(slot, now_ms // 1000)}
        return growing, {slot: each for slot, each in signatures.items() if each != NOTHING}

    def _gather(
        self,
        folder: str,
        files: Mapping[str, int],
        version: str,
        without: ErasedRows | None,
        in_time: Callable[[], None],
    ) -> tuple[dict[str, int], int]:
        """Merge the smallest files first, some at a time, until few enough are left: those; and how many rows that
        spared.
        """
        rest, duplicates, number = dict(files), 0, 0
        while len(rest) > MAX_FILES:
            number += 1
            share = dict(sorted(rest.items(), key=lambda item: (item[1], item[0]))[:MAX_FILES])
            merge = self.lake.merge(folder, share, without)
            keys = self.lake.write_hour(folder, f"{version}.{number}", merge, in_time).keys
            names = {key.removeprefix(folder) for key in keys}
            sizes = self.lake.files(folder)
            duplicates += merge.duplicates
            rest = {name: size for name, size in rest.items() if name not in share}
            rest |= {name: sizes[name] for name in names}
        return rest, duplicates


def _superseded(manifest: Manifest, version: str | None, now_ms: int) -> dict[str, int]:
    """The versions whose files may be there yet."""
    before = {name: at for name, at in manifest.superseded.items() if at + waits.ORPHAN_MS > now_ms}
    return before | ({version: now_ms} if version is not None else {})


def _known(held: Held, now_ms: int) -> dict[str, int]:
    """The absorbed tails that are there yet, however long, or may be written once more."""
    kept: dict[str, int] = {}
    for name, at in held.manifest.absorbed.items():
        slot = slot_of_tail(name)
        over = is_forgotten(slot, now_ms // 1000) if slot is not None else at + waits.IMPORT_MS <= now_ms
        if name in held.others or not over or at + waits.ORPHAN_MS > now_ms:
            kept[name] = at
    return kept
