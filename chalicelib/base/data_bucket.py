"""The data bucket: quarantine, spill and the lake's files."""

import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base.errors import Unavailable

UPLOAD_PART_BYTES = 8 * 1024 * 1024  # of an upload in parts; S3 takes 5 MiB to 5 GiB, and 10,000 of them
WHOLE_BYTES = 4 * 1024 * 1024  # an object up to this size is read at once


class Stamp(NamedTuple):
    """What a listing says of an object; it differs after each write."""

    size_bytes: int
    etag: str  # without quotes
    modified: datetime


@dataclass(frozen=True, slots=True)
class DataBucket:
    """Whole objects by key; a put of the same key and content changes nothing."""

    client: Any
    name: str

    def put(self, key: str, content: bytes) -> str:
        """Returns the ETag; raises Unavailable when the bucket did not take it."""
        try:
            answer = self.client.put_object(Bucket=self.name, Key=key, Body=content)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"the bucket did not accept {key}: {error}") from error
        return _etag(answer)

    def put_gzip(self, key: str, content: bytes) -> None:
        """The same, compressed without a time stamp: the same content is the same object."""
        self.put(key, gzip.compress(content, mtime=0))

    def get(self, key: str) -> bytes | None:
        """Return the object, or None when it is gone."""
        try:
            content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None
        return content

    def keys(self, prefix: str, *, older_than: datetime | None = None, after: str = "") -> Iterator[str]:
        """The keys under a prefix in ascending order: those last written before the time, those that follow a key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, **({"StartAfter": after} if after else {})
        )
        for page in pages:
            for item in page.get("Contents", []):
                if older_than is None or item["LastModified"] < older_than:
                    yield item["Key"]

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size in bytes of every object under a prefix, by the rest of its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {item["Key"].removeprefix(prefix): item["Size"] for page in pages for item in page.get("Contents", [])}

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        """Return every object under a prefix, by the rest of its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {
            item["Key"].removeprefix(prefix): Stamp(item["Size"], _etag(item), item["LastModified"])
            for page in pages
            for item in page.get("Contents", [])
        }

    def open(self, key: str, size_bytes: int | None = None) -> io.BytesIO | io.RawIOBase:
        """Return the object as a file to read, a large one range by range; raises FileNotFoundError when there is none.

        Who knows the size spares a request.
        """
        try:
            if size_bytes is None:
                size_bytes = self.client.head_object(Bucket=self.name, Key=key)["ContentLength"]
            if size_bytes > WHOLE_BYTES:
                return _ObjectReader(self, key, size_bytes)
            return io.BytesIO(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise
            raise FileNotFoundError(f"s3://{self.name}/{key} does not exist") from error

    def head(self, key: str) -> tuple[int, str]:
        """Size in bytes and ETag, without quotes, of an object; 0 and none when it is gone."""
        try:
            found = self.client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise
            return 0, ""
        return found["ContentLength"], _etag(found)

    def writer(self, key: str) -> "ObjectWriter":
        """Return a file to write, which is there, as a whole, once it is finished."""
        return ObjectWriter(self, key)

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders that begin with the prefix, each with its last slash."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        for page in pages:
            for folder in page.get("CommonPrefixes", []):
                yield folder["Prefix"]

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""
        self.client.delete_object(Bucket=self.name, Key=key)


def _etag(answer: Mapping[str, Any]) -> str:
    etag: str = answer["ETag"]
    return etag.strip('"')


class _ObjectReader(io.RawIOBase):
    """Reads what is asked for, with one request each time: Parquet's reader asks for whole column chunks."""

    def __init__(self, bucket: DataBucket, key: str, size_bytes: int) -> None:
        self._bucket, self._key, self._size, self._at = bucket, key, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        wanted = f"bytes={self._at}-{end - 1}"
        content: bytes = self._bucket.client.get_object(Bucket=self._bucket.name, Key=self._key, Range=wanted)[
            "Body"
        ].read()
        self._at += len(content)
        return content


class ObjectWriter(io.RawIOBase):
    """Uploads in parts what is more than one part, so that memory holds one; nothing is there before the end."""

    def __init__(self, bucket: DataBucket, key: str) -> None:
        self._target = {"Bucket": bucket.name, "Key": key}
        self._client = bucket.client
        self._buffer = bytearray()
        self._upload = ""
        self._parts: list[dict[str, Any]] = []
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        size = memoryview(content).nbytes
        self._buffer += content
        self.size_bytes += size
        if len(self._buffer) >= UPLOAD_PART_BYTES:
            self._send()
        return size

    def finish(self) -> None:
        """Make the object. Not part of `close`, which Python calls for a file that nobody holds any more."""
        if not self._upload:
            self._client.put_object(**self._target, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._client.complete_multipart_upload(
            **self._target, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
        )

    def discard(self) -> None:
        """Give the object up; what a killed process leaves is removed by the bucket's lifecycle."""
        if self._upload:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._target, UploadId=self._upload)

    def _send(self) -> None:
        if not self._upload:
            self._upload = self._client.create_multipart_upload(**self._target)["UploadId"]
        number = len(self._parts) + 1
        sent = self._client.upload_part(
            **self._target, UploadId=self._upload, PartNumber=number, Body=bytes(self._buffer)
        )
        self._parts.append({"ETag": sent["ETag"], "PartNumber": number})
        self._buffer.clear()
