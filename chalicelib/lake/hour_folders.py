"""Which files of an hour of the lake hold what: by a listing, and by the manifest of the hour's version."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import HOUR_FILE, TAIL, began_ms_of, files_of_version, hour_folder, version_of
from chalicelib.lake.manifests import Manifest, ManifestGone, Manifests
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.hours_table import HoursTable

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
    """Reads; needs none of the lake's libraries."""

    bucket: DataBucket

    @property
    def manifests(self) -> Manifests:
        """What each version holds."""
        return Manifests(self.bucket)

    def held(self, hour: Hour) -> Held:
        """Return what the hour's folder holds; raises ManifestGone."""
        manifest = self.manifests.read(hour)
        found = self.bucket.sizes(hour_folder(hour.project, hour.hour))
        files = {name: size for name, size in found.items() if name.startswith((TAIL, HOUR_FILE))}
        current = {name: files[name] for name in files_of_version(files, hour.version)}
        fresh = {name: files[name] for name in files if name.startswith(TAIL) and name not in manifest.absorbed}
        others = {name: size for name, size in files.items() if name not in current and name not in fresh}
        return Held(manifest, current, fresh, others)

    def strays(self, hour: Hour, held: Held) -> list[str]:
        """Return the versions that no item names and that hold something that is nowhere else, the newest last.

        There are some when the hour's item was lost or put back to an earlier state. A run that died before it
        committed leaves a version, too, but what that took in is there yet, or in the version that counts.
        """
        versions = {version_of(name) for name in held.others} - {None, *held.manifest.superseded}
        found = []
        for version in sorted(map(str, versions)):
            try:
                manifest = self.manifests.read(replace(hour, version=version, bare=False))
            except ManifestGone:
                continue  # its run died before it could have committed
            new = {name for name, at in manifest.absorbed.items() if at >= began_ms_of(version)}
            if not new <= {*held.manifest.absorbed, *held.fresh}:
                found.append(version)
        return found

    def files(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, dict[str, int]]:
        """Return the hour, and the size in bytes of the files that hold every event of it, by name.

        An event may be in several, unless the hour is clean. Raises ManifestGone.
        """
        found, held = self.look(hours, project, hour)
        return found, {**held.current, **held.fresh}

    def look(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, Held]:
        """Return the hour, and what its folder holds; of a lost item, as it will be taken up. Raises ManifestGone."""
        for _ in range(MAX_TRIES):
            found = hours.get(project, hour)
            try:
                held = self.held(found)
            except ManifestGone:
                if hours.get(project, hour).version != found.version:
                    continue  # another version is there since
                held = self.held(replace(found, version=None))
            if newer := self.newer(found, held):
                found = replace(found, version=newer, bare=False)
                held = self.held(found)
            return found, held
        raise ManifestGone(f"the versions of {project} {hour} keep changing")

    def newer(self, hour: Hour, held: Held) -> str | None:
        """The newest version that holds more than the hour's, if any: see `strays`."""
        return next((each for each in reversed(self.strays(hour, held)) if each > (hour.version or "")), None)

    def keys(self, hours: HoursTable, project: str, hour: str) -> tuple[Hour, list[str]]:
        """Return the same files, by key."""
        found, files = self.files(hours, project, hour)
        return found, [hour_folder(project, hour) + name for name in files]
