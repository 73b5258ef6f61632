"""Which stream records a file of the lake holds: 12 bytes each, in a tail's footer and beside an hour's versions."""

import io
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import records_folder
from chalicelib.rollups.signatures import HASHES, Signature

RECORD = np.dtype([("hash", "<u8"), ("rows", "<u4")])  # of its `eventID`; how many rows it has in the hour, as received
Records = npt.NDArray[np.void]


def records_of(received: Iterable[tuple[int, int]]) -> Records:
    """Return a set of (hash, rows), each hash once."""
    return np.array(list(received), RECORD)


def union(sets: Iterable[Records]) -> Records:
    """Return the records of several sets, each once."""
    every = np.concatenate([np.empty(0, RECORD), *sets])
    _, first = np.unique(every["hash"], return_index=True)
    return every[first]


def signature_of(records: Records) -> Signature:
    """Return the signature of a set."""
    return Signature(int(records["rows"].sum()), int(records["hash"].sum(dtype=np.uint64)) % HASHES)


def to_text(records: Records) -> bytes:
    """As it stands in a file's footer."""
    return b64encode(records.tobytes())


def from_text(text: bytes) -> Records:
    """Return the inverse of `to_text`."""
    return np.frombuffer(b64decode(text), RECORD)


@dataclass(frozen=True, slots=True)
class RecordSets:
    """One object a version, beside its manifest; gone once the stream has forgotten the records for days."""

    bucket: DataBucket

    def read(self, project: str, hour: str, version: str | None) -> dict[int, Records]:
        """Return the records by slot, of the slots that may still grow; none where the version has none, or had."""
        content = self.bucket.get(_key(project, hour, version)) if version else None
        if content is None:
            return {}
        with np.load(io.BytesIO(content)) as found:
            return {int(slot): found[slot] for slot in found.files}

    def write(self, project: str, hour: str, version: str, records: Mapping[int, Records]) -> None:
        """Write the records of a version that is to be committed; raises Unavailable."""
        buffer = io.BytesIO()
        named: dict[str, Any] = {str(slot): each for slot, each in records.items()}
        np.savez(buffer, **named)
        self.bucket.put(_key(project, hour, version), buffer.getvalue())

    def delete(self, project: str, hour: str, version: str) -> None:
        """Remove the records of a version; missing ones are no error."""
        self.bucket.delete(_key(project, hour, version))


def _key(project: str, hour: str, version: str) -> str:
    return f"{records_folder(project, hour)}{version}.npz"
