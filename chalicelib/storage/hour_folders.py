"""Which files of an hour of the lake hold what: by a listing, and by the manifest of the hour's version."""

from collections.abc import Mapping
from dataclasses import dataclass

from chalicelib.domain.closing import Hour
from chalicelib.domain.partitions import HOUR_FILE, TAIL, files_of_version, hour_folder
from chalicelib.storage.hours_table import HoursTable
from chalicelib.storage.manifests import Manifest, ManifestGone, Manifests
from chalicelib.storage.objects import DataBucket

MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What an hour's folder holds: names with their sizes in bytes."""

    manifest: Manifest
    current: Mapping[str, int]  # files of the version
    fresh: Mapping[str, int]  # tails that it does not hold
    others: Mapping[str, int]  # what it holds as well, or what nobody needs


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
        found = self.bucket.sizes(hour_folder(hour.project, hour.hour))
        files = {name: size for name, size in found.items() if name.startswith((TAIL, HOUR_FILE))}
        current = {name: files[name] for name in files_of_version(files, hour.version)}
        fresh = {name: files[name] for name in files if name.startswith(TAIL) and name not in manifest.absorbed}
        others = {name: size for name, size in files.items() if name not in current and name not in fresh}
        return Held(manifest, current, fresh, others)

    def keys(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, list[str]]:
        """The hour, and the files that hold every event of it; an event may be in several, unless it is clean.

        Raises ManifestGone.
        """
        for _ in range(MAX_TRIES):
            found = hours.get(project, hour)
            try:
                held = self.held(found)
            except ManifestGone:
                continue  # another version is there since
            folder = hour_folder(project, hour)
            return found, [folder + name for name in (*held.current, *held.fresh)]
        raise ManifestGone(f"the versions of {project} {hour} keep changing")
