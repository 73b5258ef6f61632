"""The data bucket: quarantine, spill and the lake's files."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.errors import Unavailable


@dataclass(frozen=True, slots=True)
class DataBucket:
    """Whole objects by key; a put of the same key and content changes nothing."""

    client: Any
    name: str

    def put(self, key: str, content: bytes) -> None:
        """Raises Unavailable when the bucket did not take it."""
        try:
            self.client.put_object(Bucket=self.name, Key=key, Body=content)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"the bucket did not take {key}: {error}") from error

    def put_gzip(self, key: str, content: bytes) -> None:
        """The same, compressed without a time stamp: the same content is the same object."""
        self.put(key, gzip.compress(content, mtime=0))

    def get(self, key: str) -> bytes | None:
        """The object, or None when it is gone."""
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

    def folders(self, prefix: str) -> Iterator[str]:
        """The folders that begin with the prefix, each with its last slash."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        for page in pages:
            for folder in page.get("CommonPrefixes", []):
                yield folder["Prefix"]

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""
        self.client.delete_object(Bucket=self.name, Key=key)
