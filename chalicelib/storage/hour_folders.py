"""Which files of an hour of the lake hold what: by a listing, and by the manifest of the hour's version.

Where no item of the hour names a version, or one that is long gone, as after a table was lost or put back to an earlier
time, every file counts.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from chalicelib.domain.closing import Hour
from chalicelib.domain.partitions import HOUR_FILE, TAIL, files_of_version, hour_folder, version_of
from chalicelib.domain.signatures import NOTHING, Signature
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.manifests import Manifest, ManifestGone, Manifests
from chalicelib.storage.objects import DataBucket

MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What an hour's folder holds: names with their sizes in bytes. `versions`: whose files are `current`."""

    manifest: Manifest
    versions: tuple[str, ...]
    current: Mapping[str, int]  # files of the version
    fresh: Mapping[str, int]  # tails that it does not hold
    others: Mapping[str, int]  # what it holds as well, or what nobody needs

    @property
    def used(self) -> dict[str, int]:
        """The files that hold every event of the hour."""
        return {**self.current, **self.fresh}

    @property
    def is_one_version(self) -> bool:
        """Whether each event is in these files once."""
        return not self.fresh and len(self.versions) <= 1


@dataclass(frozen=True, slots=True)
class HourFolders:
    """Reads; needs no pyarrow."""

    bucket: DataBucket

    @property
    def manifests(self) -> Manifests:
        """What each version holds."""
        return Manifests(self.bucket)

    def held(self, hour: Hour) -> Held:
        """What the hour's folder holds; raises ManifestGone."""
        manifest = self.manifests.read(hour)
        files = self._files(hour)
        current = {name: files[name] for name in files_of_version(files, hour.version)}
        if hour.version is None and any(name.startswith(HOUR_FILE) for name in files):
            return self.lost(hour)
        fresh = {name: files[name] for name in files if name.startswith(TAIL) and name not in manifest.absorbed}
        others = {name: size for name, size in files.items() if name not in current and name not in fresh}
        return Held(manifest, (hour.version,) if hour.version is not None else (), current, fresh, others)

    def lost(self, hour: Hour) -> Held:
        """What the folder holds of an hour of which no item says which version counts, as when the table was lost.

        All of it counts: whatever a version holds was received, committed or not.
        """
        files = self._files(hour)
        current = {name: size for name, size in files.items() if name.startswith(HOUR_FILE)}
        fresh = {name: size for name, size in files.items() if name.startswith(TAIL)}
        versions = tuple(sorted({version for name in current if (version := version_of(name)) is not None}))
        signatures: dict[int, Signature] = {}
        for version in versions:
            with suppress(ManifestGone):
                found = self.manifests.read(replace(hour, version=version, bare=False)).signatures
                signatures |= {slot: max(each, signatures.get(slot, NOTHING)) for slot, each in found.items()}
        return Held(Manifest(signatures=signatures), versions, current, fresh, {})

    def found(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, Held]:
        """The hour, and what its folder holds; raises ManifestGone where its versions keep changing."""
        before: str | None = None
        for _ in range(MAX_TRIES):
            found = hours.get(project, hour)
            try:
                return found, self.held(found)
            except ManifestGone:
                if found.version == before:
                    return found, self.lost(found)
                before = found.version  # another version is there since, unless the table was put back
        raise ManifestGone(f"the versions of {project} {hour} keep changing")

    def keys(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, list[str]]:
        """The hour, and the files that hold every event of it; an event may be in several, unless it is clean.

        Raises ManifestGone.
        """
        found, held = self.found(hours, project, hour)
        folder = hour_folder(project, hour)
        return found, [folder + name for name in held.used]

    def _files(self, hour: Hour) -> dict[str, int]:
        found = self.bucket.sizes(hour_folder(hour.project, hour.hour))
        return {name: size for name, size in found.items() if name.startswith((TAIL, HOUR_FILE))}
