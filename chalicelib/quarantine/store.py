"""The quarantine's files in the data bucket, which is where rejected events lie."""

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import quarantine_folder
from chalicelib.quarantine.files import QuarantineFile, Record

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuarantineFiles:
    """Reads files of a project."""

    bucket: DataBucket

    def read(self, key: str) -> QuarantineFile | None:
        """Return the file; None of one that is gone, or is not ours."""
        content = self.bucket.get(key)
        try:
            return None if content is None else QuarantineFile.decode(gzip.decompress(content))
        except (ValueError, EOFError, OSError, zlib.error) as error:
            log.warning("quarantine file unreadable", extra={"key": key, "reason": str(error)})
            return None

    def all(self, project: str) -> Iterator[tuple[str, QuarantineFile]]:
        """Yield every file of a project that can be read, with its key."""
        for key in list(self.bucket.keys(quarantine_folder(project))):
            if file := self.read(key):
                yield key, file

    def naming(self, project: str, ids: Sequence[str]) -> Iterator[Record]:
        """Yield the records of a project that name one of the ids."""
        for _, file in self.all(project):
            yield from (record for record in file.records if record.names(ids, file.body))
