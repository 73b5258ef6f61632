"""Session parts in the bucket: what was written is read, in shares that keep a session together."""

from collections.abc import Iterator

import pytest

from chalicelib.domain.session_parts import COLUMNS, Part
from chalicelib.domain.sketches import hash_user
from chalicelib.storage.session_files import SessionFiles
from tests.stores import Stores, empty_stores

HOUR, NEXT = "2026-11-20T23", "2026-11-21T00"


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def parts(hour: int, number: int) -> list[Part]:
    return [
        Part(hash(f"{n}"), n % 2 == 0, f"u{n}" if n % 3 else None, hour, hour + n, n, 1, None, f"/{n}")
        for n in range(number)
    ]


def test_what_is_listed_tells_whether_an_hour_was_written_again(stores: Stores) -> None:
    files = SessionFiles(stores.bucket)
    files.write("demo", HOUR, [parts(0, 2)])
    files.write("demo", NEXT, [])
    before = files.listed("demo", HOUR, NEXT)
    files.write("demo", HOUR, [parts(0, 3)])
    after = files.listed("demo", HOUR, NEXT)

    assert list(before) == list(after) == [HOUR, NEXT]
    assert before[NEXT] == after[NEXT]
    assert before[HOUR] != after[HOUR]
    assert list(files.listed("demo", NEXT, NEXT)) == [NEXT]
    assert files.listed("dem", HOUR, NEXT) == {}


@pytest.mark.parametrize("share_bytes", [10**9, 1000])
def test_every_part_is_read_once_with_all_of_its_session(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, share_bytes: int
) -> None:
    monkeypatch.setattr("chalicelib.storage.session_files.SHARE_BYTES", share_bytes)
    monkeypatch.setattr("chalicelib.storage.session_files.BATCH_ROWS", 7)
    files = SessionFiles(stores.bucket)
    written = {HOUR: parts(0, 100), NEXT: parts(3_600_000, 50)}
    files.write("demo", HOUR, [written[HOUR][:60], written[HOUR][60:]])
    files.write("demo", NEXT, [written[NEXT]])

    shares = list(files.read("demo", files.listed("demo", HOUR, NEXT)))

    found = [row for share in shares for row in zip(*(getattr(share, name).tolist() for name in COLUMNS), strict=True)]
    expected = [
        tuple(part.user and hash_user(part.user) if name == "user" else getattr(part, name) for name in COLUMNS)
        for part in [*written[HOUR], *written[NEXT]]
    ]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert (len(shares) > 3) is (share_bytes == 1000)
    keys = [set(share.key.tolist()) for share in shares]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 100
