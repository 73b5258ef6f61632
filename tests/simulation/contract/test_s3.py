"""S3: lists in pages, folders, ranges, uploads in parts, conditional writes."""

from datetime import datetime
from hashlib import md5
from typing import Any

import pytest

from tests.simulation.contract.clouds import Cloud, refused

MIB = 1024 * 1024


def keys(cloud: Cloud, bucket: str, **asked: Any) -> list[str]:
    pages = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **asked)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    name = cloud.bucket()
    for key in ("lake/b/2", "lake/a/1", "lake/a/2", "lake/b/1", "lakes", "raw/x", "lake/c"):
        cloud.s3.put_object(Bucket=name, Key=key, Body=key.encode())
    return name


def test_an_object_comes_back_with_its_size_and_etag(cloud: Cloud, bucket: str) -> None:
    put = cloud.s3.put_object(Bucket=bucket, Key="a", Body=b"content")

    got, head = cloud.s3.get_object(Bucket=bucket, Key="a"), cloud.s3.head_object(Bucket=bucket, Key="a")

    etag = f'"{md5(b"content", usedforsecurity=False).hexdigest()}"'
    assert got["Body"].read() == b"content"
    assert [each["ETag"] for each in (put, got, head)] == [etag] * 3
    assert (got["ContentLength"], head["ContentLength"]) == (7, 7)
    assert isinstance(head["LastModified"], datetime)
    assert head["LastModified"].tzinfo is not None


def test_a_missing_object(cloud: Cloud, bucket: str) -> None:
    with pytest.raises(cloud.s3.exceptions.NoSuchKey):
        cloud.s3.get_object(Bucket=bucket, Key="nothing")

    assert refused(cloud.s3.head_object, Bucket=bucket, Key="nothing") == "404"
    cloud.s3.delete_object(Bucket=bucket, Key="nothing")


def test_keys_are_listed_in_order_page_by_page(cloud: Cloud, bucket: str) -> None:
    sizes = {"PaginationConfig": {"PageSize": 2}}

    assert keys(cloud, bucket, Prefix="lake/", **sizes) == ["lake/a/1", "lake/a/2", "lake/b/1", "lake/b/2", "lake/c"]
    assert keys(cloud, bucket, Prefix="lake/", StartAfter="lake/a/2", **sizes) == ["lake/b/1", "lake/b/2", "lake/c"]
    assert keys(cloud, bucket, Prefix="lake/a/9") == []
    assert keys(cloud, bucket, StartAfter="lakes") == ["raw/x"]


def test_a_list_says_size_etag_and_time(cloud: Cloud, bucket: str) -> None:
    [found] = cloud.s3.list_objects_v2(Bucket=bucket, Prefix="raw/")["Contents"]

    assert (found["Key"], found["Size"]) == ("raw/x", 5)
    assert found["ETag"] == f'"{md5(b"raw/x", usedforsecurity=False).hexdigest()}"'
    assert found["LastModified"].tzinfo is not None


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_folders_are_listed_once(cloud: Cloud, bucket: str, size: int) -> None:
    pages = list(
        cloud.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix="lake/", Delimiter="/", PaginationConfig={"PageSize": size}
        )
    )

    assert [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])] == ["lake/a/", "lake/b/"]
    assert [each["Key"] for page in pages for each in page.get("Contents", [])] == ["lake/c"]


def test_a_range(cloud: Cloud, bucket: str) -> None:
    cloud.s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")

    def read(wanted: str) -> bytes:
        return bytes(cloud.s3.get_object(Bucket=bucket, Key="a", Range=f"bytes={wanted}")["Body"].read())

    assert [read(wanted) for wanted in ("2-4", "8-20", "-3", "7-")] == [b"234", b"89", b"789", b"789"]
    assert refused(read, wanted="10-12") == "InvalidRange"


def test_an_upload_in_parts_is_there_when_it_is_complete(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    bodies = [bytes(5 * MIB), b"rest"]

    upload = cloud.s3.create_multipart_upload(**target)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        sent = cloud.s3.upload_part(**target, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"ETag": sent["ETag"], "PartNumber": number})
    before = keys(cloud, bucket, Prefix="large")
    done = cloud.s3.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})

    assert before == []
    assert cloud.s3.get_object(**target)["Body"].read() == b"".join(bodies)
    joined = b"".join(md5(body, usedforsecurity=False).digest() for body in bodies)
    assert done["ETag"] == f'"{md5(joined, usedforsecurity=False).hexdigest()}-2"'


def upload_small(cloud: Cloud, target: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """An upload of two parts of a byte each."""
    upload = cloud.s3.create_multipart_upload(**target)["UploadId"]
    sent = [cloud.s3.upload_part(**target, UploadId=upload, PartNumber=n, Body=b"x") for n in (1, 2)]
    return upload, [{"PartNumber": number, "ETag": each["ETag"]} for number, each in enumerate(sent, 1)]


@pytest.mark.gap(ministack="takes small parts")
def test_all_parts_but_the_last_are_large(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    upload, parts = upload_small(cloud, target)

    code = refused(cloud.s3.complete_multipart_upload, **target, UploadId=upload, MultipartUpload={"Parts": parts})

    assert code == "EntityTooSmall"


@pytest.mark.gap(moto="looks at their sizes first", ministack="takes parts in any order")
def test_parts_are_named_in_order(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    upload, parts = upload_small(cloud, target)

    code = refused(
        cloud.s3.complete_multipart_upload, **target, UploadId=upload, MultipartUpload={"Parts": parts[::-1]}
    )

    assert code == "InvalidPartOrder"


def test_parts_are_there(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    upload, parts = upload_small(cloud, target)

    def complete(number: int) -> None:
        named = {"Parts": [{**parts[0], "PartNumber": number}]}
        cloud.s3.complete_multipart_upload(**target, UploadId=upload, MultipartUpload=named)

    assert refused(complete, number=3) == "InvalidPart"
    complete(number=1)


@pytest.mark.gap(moto="fails with a KeyError")
def test_an_upload_that_was_given_up(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    upload, parts = upload_small(cloud, target)

    cloud.s3.abort_multipart_upload(**target, UploadId=upload)
    code = refused(cloud.s3.complete_multipart_upload, **target, UploadId=upload, MultipartUpload={"Parts": parts})
    assert code == "NoSuchUpload"


def test_a_conditional_put(cloud: Cloud, bucket: str) -> None:
    first = cloud.s3.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")

    second: dict[str, Any] = {"Bucket": bucket, "Key": "a", "Body": b"2"}
    assert refused(cloud.s3.put_object, **second, IfNoneMatch="*") == "PreconditionFailed"
    assert refused(cloud.s3.put_object, **second, IfMatch='"other"') == "PreconditionFailed"
    cloud.s3.put_object(**second, IfMatch=first["ETag"])
    assert cloud.s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"2"


def test_objects_are_deleted_together(cloud: Cloud, bucket: str) -> None:
    cloud.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "raw/x"}, {"Key": "nothing"}]})

    assert keys(cloud, bucket, Prefix="raw/") == []


def test_a_bucket_that_is_not_there(cloud: Cloud) -> None:
    assert refused(cloud.s3.put_object, Bucket="contract-nowhere", Key="a", Body=b"") == "NoSuchBucket"
