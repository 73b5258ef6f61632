"""Session parts in the bucket: the last version's are read, in shares that keep a session together."""

from collections.abc import Iterator
from itertools import count

import pytest

from chalicelib.hours.session_files import SessionFiles
from chalicelib.hours.session_parts import COLUMNS, SessionPart
from chalicelib.rollups.sketches import hash_user
from tests.stores import Stores, empty_stores

HOUR, NEXT = "2026-11-20T23", "2026-11-21T00"
FIRST, SECOND, THIRD = (f"{1_795_251_600_000 + n}-{run}" for n, run in enumerate(("c", "b", "a")))  # versions


@pytest.fixture
def stores() -> Iterator[Stores]:
    """Each object is written a minute after the one before."""
    with empty_stores(clock=count(1_795_251_600, 60).__next__) as found:
        yield found


def parts(hour: int, number: int) -> list[SessionPart]:
    return [
        SessionPart(hash(f"{n}"), n % 2 == 0, f"u{n}" if n % 3 else None, hour, hour + n, n, 1, None, f"/{n}")
        for n in range(number)
    ]


def test_what_is_listed_tells_whether_an_hour_has_another_version(stores: Stores) -> None:
    files = SessionFiles(stores.bucket)
    files.write("demo", HOUR, FIRST, [parts(0, 2)])
    files.write("demo", NEXT, FIRST, [])
    before = files.listed("demo", HOUR, NEXT)
    files.write("demo", HOUR, SECOND, [parts(0, 3)])
    after = files.listed("demo", HOUR, NEXT)

    assert list(before) == list(after) == [HOUR, NEXT]
    assert before[NEXT] == after[NEXT]
    assert before[HOUR] != after[HOUR]
    assert list(files.listed("demo", NEXT, NEXT)) == [NEXT]
    assert files.listed("dem", HOUR, NEXT) == {}


def test_who_is_late_with_an_older_version_changes_nothing(stores: Stores) -> None:
    files = SessionFiles(stores.bucket)
    files.write("demo", HOUR, SECOND, [parts(0, 3)])
    before = files.listed("demo", HOUR, HOUR)

    files.write("demo", HOUR, FIRST, [parts(0, 100)])

    assert files.listed("demo", HOUR, HOUR) == before
    [columns] = files.read("demo", before)
    assert len(columns.key) == 3


@pytest.mark.parametrize(("keep", "left"), [(1, [THIRD]), (2, [SECOND, THIRD])])
def test_what_is_left_when_an_hour_is_cleaned_up_are_its_last_versions(
    stores: Stores, keep: int, left: list[str]
) -> None:
    files = SessionFiles(stores.bucket)
    for version in (FIRST, SECOND, THIRD):
        files.write("demo", HOUR, version, [parts(0, 1)])
    files.write("demo", NEXT, FIRST, [parts(0, 1)])

    files.clean("demo", HOUR, keep)

    folder = "sessions/project=demo/"
    of_hour = [f"{folder}dt=2026-11-20/hr=23-{version}.parquet" for version in left]
    assert stores.objects(folder) == [*of_hour, f"{folder}dt=2026-11-21/hr=00-{FIRST}.parquet"]


@pytest.mark.parametrize("share_bytes", [10**9, 1000])
def test_every_part_is_read_once_with_all_of_its_session(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, share_bytes: int
) -> None:
    monkeypatch.setattr("chalicelib.hours.session_files.SHARE_BYTES", share_bytes)
    monkeypatch.setattr("chalicelib.hours.session_files.BATCH_ROWS", 7)
    files = SessionFiles(stores.bucket)
    written = {HOUR: parts(0, 100), NEXT: parts(3_600_000, 50)}
    files.write("demo", HOUR, FIRST, [written[HOUR][:60], written[HOUR][60:]])
    files.write("demo", NEXT, SECOND, [written[NEXT]])

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
