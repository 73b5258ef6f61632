"""S3 in memory: whole objects, ranges, paged lists, uploads in parts, conditional writes."""

import io
import re
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from itertools import count
from typing import Any

from tests.simulation.ports.client import Answer, Service, refusal
from tests.simulation.ports.quirks import ORDINARY, Quirks

MAX_KEYS = 1000
MIN_PART_BYTES = 5 * 1024 * 1024  # of all parts but the last
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Object:
    """One object."""

    content: bytes
    etag: str
    modified: datetime


@dataclass
class Bucket:
    """Keys in order of their UTF-8, which is the order of Python's texts."""

    objects: dict[str, Object] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    uploads: dict[str, dict[int, Object]] = field(default_factory=dict)


_Bucket = Bucket  # operations have an argument of that name


@dataclass
class S3(Service):
    """`created` is called with bucket and key after each write."""

    clock: Callable[[], float]
    buckets: dict[str, Bucket] = field(default_factory=dict)
    quirks: Quirks = ORDINARY
    created: Callable[[str, str], None] = lambda _bucket, _key: None
    numbers: Any = field(default_factory=count)
    name: str = "s3"

    def create_bucket(self, Bucket: str) -> Answer:
        """Make an empty bucket."""
        self.buckets[Bucket] = _Bucket()
        return {}

    def delete_bucket(self, Bucket: str) -> Answer:
        """Remove a bucket that has no object left."""
        if self._bucket(Bucket).objects:
            raise refusal("BucketNotEmpty", "The bucket you tried to delete is not empty", status=409)
        del self.buckets[Bucket]
        return {}

    def put_object(self, Bucket: str, Key: str, Body: bytes = b"", **request: Any) -> Answer:
        """Write an object as a whole."""
        return self._write(Bucket, Key, self._object(_bytes(Body)), request)

    def get_object(self, Bucket: str, Key: str, Range: str = "", IfMatch: str = "") -> Answer:
        """An object, or a range of its bytes."""
        found = self._bucket(Bucket).objects.get(Key)
        if found is None:
            raise refusal("NoSuchKey", "The specified key does not exist.", status=404)
        if IfMatch and IfMatch.strip('"') != found.etag.strip('"'):
            raise refusal(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", status=412
            )
        content, answer = found.content, _head(found)
        if Range:
            first, end = _range(Range, len(content))
            answer |= {"ContentRange": f"bytes {first}-{end - 1}/{len(content)}", "ContentLength": end - first}
            content = content[first:end]
        return {**answer, "Body": io.BytesIO(content)}

    def head_object(self, Bucket: str, Key: str) -> Answer:
        """What there is to say of an object."""
        found = self._bucket(Bucket).objects.get(Key)
        if found is None:
            raise refusal("404", "Not Found", status=404)
        return _head(found)

    def delete_object(self, Bucket: str, Key: str) -> Answer:
        """Remove an object; a missing one is no error."""
        bucket = self._bucket(Bucket)
        if bucket.objects.pop(Key, None):
            del bucket.order[bisect_left(bucket.order, Key)]
        return {}

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> Answer:
        """Remove up to 1,000 objects."""
        keys = [each["Key"] for each in Delete["Objects"]]
        if not 0 < len(keys) <= MAX_KEYS:
            raise refusal("MalformedXML", f"DeleteObjects takes 1,000 keys at most; it has {len(keys)}")
        for key in keys:
            self.delete_object(Bucket, key)
        return {"Deleted": [{"Key": key} for key in keys]}

    def copy_object(self, Bucket: str, Key: str, CopySource: dict[str, str], **request: Any) -> Answer:
        """Write an object with the content of another."""
        source = self._bucket(CopySource["Bucket"]).objects.get(CopySource["Key"])
        if source is None:
            raise refusal("NoSuchKey", "The specified key does not exist.", status=404)
        return {"CopyObjectResult": self._write(Bucket, Key, self._object(source.content), request)}

    def list_objects_v2(
        self,
        Bucket: str,
        Prefix: str = "",
        Delimiter: str = "",
        StartAfter: str = "",
        ContinuationToken: str = "",
        MaxKeys: int = MAX_KEYS,
    ) -> Answer:
        """A page of the keys under a prefix; with a delimiter, what has it behind the prefix as one folder."""
        bucket, most = self._bucket(Bucket), self.quirks.page(min(MaxKeys, MAX_KEYS))
        after = max(StartAfter, ContinuationToken)
        at = bisect_left(bucket.order, max(Prefix, after))
        contents: list[dict[str, Any]] = []
        folders: list[str] = []
        last = ""
        while at < len(bucket.order) and bucket.order[at].startswith(Prefix):
            key = bucket.order[at]
            at += 1
            cut = key.find(Delimiter, len(Prefix)) if Delimiter else -1
            folder = key[: cut + len(Delimiter)] if cut >= 0 else ""
            if key <= after or (folder and (folder <= after or folder in folders)):
                continue
            if len(contents) + len(folders) == most:
                return _listed(contents, folders, last)
            if folder:
                folders.append(folder)
                last = folder + "\U0010ffff"  # behind everything in it
            else:
                found = bucket.objects[key]
                contents.append(
                    {"Key": key, "Size": len(found.content), "ETag": found.etag, "LastModified": found.modified}
                )
                last = key
        return _listed(contents, folders, "")

    def create_multipart_upload(self, Bucket: str, Key: str, **_request: Any) -> Answer:
        """Begin an upload in parts."""
        upload = f"upload-{next(self.numbers)}"
        self._bucket(Bucket).uploads[upload] = {}
        return {"Bucket": Bucket, "Key": Key, "UploadId": upload}

    def upload_part(self, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: bytes) -> Answer:
        """Send a part; one of the same number is replaced."""
        if not 1 <= PartNumber <= MAX_PARTS:
            raise refusal("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
        part = self._object(_bytes(Body))
        self._upload(Bucket, UploadId)[PartNumber] = part
        return {"ETag": part.etag}

    def complete_multipart_upload(
        self, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, Any], **request: Any
    ) -> Answer:
        """Make the object of its parts."""
        sent, parts = self._upload(Bucket, UploadId), MultipartUpload["Parts"]
        numbers = [part["PartNumber"] for part in parts]
        if numbers != sorted({*numbers}):
            raise refusal("InvalidPartOrder", "The list of parts was not in ascending order")
        if not parts or any(
            n not in sent or sent[n].etag != part["ETag"] for n, part in zip(numbers, parts, strict=True)
        ):
            raise refusal("InvalidPart", "One or more of the specified parts could not be found")
        if any(len(sent[number].content) < MIN_PART_BYTES for number in numbers[:-1]):
            raise refusal("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
        digest = md5(b"".join(bytes.fromhex(sent[n].etag.strip('"')) for n in numbers), usedforsecurity=False)
        whole = Object(
            b"".join(sent[n].content for n in numbers), f'"{digest.hexdigest()}-{len(numbers)}"', self._now()
        )
        answer = self._write(Bucket, Key, whole, request)
        del self._bucket(Bucket).uploads[UploadId]
        return answer

    def list_multipart_uploads(self, Bucket: str) -> Answer:
        """Uploads that are neither complete nor given up."""
        found = [{"UploadId": upload} for upload in self._bucket(Bucket).uploads]
        return {"Uploads": found} if found else {}

    def abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str) -> Answer:
        """Give an upload up."""
        self._upload(Bucket, UploadId)
        del self._bucket(Bucket).uploads[UploadId]
        return {}

    def _write(self, bucket_name: str, key: str, made: Object, request: dict[str, Any]) -> Answer:
        bucket = self._bucket(bucket_name)
        if not 0 < len(key.encode()) <= 1024:
            raise refusal("KeyTooLongError", f"Your key is too long: {len(key.encode())} bytes")
        found = bucket.objects.get(key)
        if "IfMatch" in request and found is None:
            raise refusal("NoSuchKey", "The specified key does not exist.", status=404)
        matches = found is not None and request.get("IfMatch", found.etag).strip('"') == found.etag.strip('"')
        if (request.get("IfNoneMatch") == "*" and found) or ("IfMatch" in request and not matches):
            raise refusal(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", status=412
            )
        if found is None:
            insort(bucket.order, key)
        bucket.objects[key] = made
        self.created(bucket_name, key)
        return {"ETag": made.etag}

    def _object(self, content: bytes) -> Object:
        return Object(content, f'"{md5(content, usedforsecurity=False).hexdigest()}"', self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self.clock()), UTC)

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise refusal("NoSuchBucket", f"The specified bucket does not exist: {name}", status=404)
        return self.buckets[name]

    def _upload(self, bucket: str, upload: str) -> dict[int, Object]:
        if upload not in self._bucket(bucket).uploads:
            raise refusal("NoSuchUpload", "The specified upload does not exist.", status=404)
        return self.buckets[bucket].uploads[upload]


def _bytes(body: Any) -> bytes:
    return body.read() if hasattr(body, "read") else bytes(body)


def _head(found: Object) -> Answer:
    return {"ContentLength": len(found.content), "ETag": found.etag, "LastModified": found.modified}


def _listed(contents: list[dict[str, Any]], folders: list[str], token: str) -> Answer:
    answer: Answer = {"IsTruncated": bool(token), "KeyCount": len(contents) + len(folders)}
    answer |= {"Contents": contents} if contents else {}
    answer |= {"CommonPrefixes": [{"Prefix": folder} for folder in folders]} if folders else {}
    return answer | ({"NextContinuationToken": token} if token else {})


def _range(text: str, size: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    first, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    if first >= size:
        raise refusal("InvalidRange", "The requested range is not satisfiable", status=416)
    return first, end
