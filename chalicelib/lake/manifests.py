"""What each version of an hour of the lake holds: an object beside it, written before the version is committed.

It names the files that the version took in, so that nobody reads those besides, and the signature of the stream records
in them by slot, so that closing can compare them with what is live. Queries read it, too, so it needs no library of
the lake.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from isal import isal_zlib

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import manifests_folder
from chalicelib.rollups.closing import Hour
from chalicelib.rollups.signatures import Signature


@dataclass(frozen=True, slots=True)
class Manifest:
    """`absorbed` tails and `superseded` versions, each with the Unix milliseconds: they are there for a while."""

    absorbed: Mapping[str, int] = field(default_factory=dict)
    superseded: Mapping[str, int] = field(default_factory=dict)
    signatures: Mapping[int, Signature] = field(default_factory=dict)  # by slot; also of users who were erased since


EMPTY = Manifest()


class ManifestGone(Exception):
    """The version was superseded so long ago that its manifest is deleted; the hour's item names another one."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """One object a version, under a name of its own: it is never changed."""

    bucket: DataBucket

    def read(self, hour: Hour) -> Manifest:
        """Return the manifest of the hour's version; an empty one where it has none. Raises ManifestGone."""
        if hour.version is None or hour.bare:
            return EMPTY
        content = self.bucket.get(_key(hour.project, hour.hour, hour.version))
        if content is None:
            raise ManifestGone(f"{hour.project} {hour.hour} has no manifest of version {hour.version}")
        found = orjson.loads(isal_zlib.decompress(content))
        signatures = {int(slot): Signature.from_text(text) for slot, text in found["signatures"].items()}
        return Manifest(found["absorbed"], found["superseded"], signatures)

    def write(self, project: str, hour: str, version: str, manifest: Manifest) -> None:
        """Write the manifest of a version that is to be committed; raises Unavailable."""
        document = {
            "absorbed": manifest.absorbed,
            "superseded": manifest.superseded,
            "signatures": {str(slot): str(each) for slot, each in manifest.signatures.items()},
        }
        self.bucket.put(_key(project, hour, version), isal_zlib.compress(orjson.dumps(document), 1))

    def versions(self, project: str, hour: str) -> list[str]:
        """Return the versions of the hour that there are manifests of."""
        return [name.removesuffix(SUFFIX) for name in self.bucket.sizes(manifests_folder(project, hour))]

    def delete(self, project: str, hour: str, version: str) -> None:
        """Remove a manifest; a missing one is no error."""
        self.bucket.delete(_key(project, hour, version))


SUFFIX = ".json.z"


def _key(project: str, hour: str, version: str) -> str:
    return f"{manifests_folder(project, hour)}{version}{SUFFIX}"
