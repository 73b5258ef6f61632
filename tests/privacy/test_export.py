"""Exports: all there is of a user, each event once, and a project's events as files that others read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from chalicelib.base.data_bucket import DataBucket
from chalicelib.base.object_keys import hour_folder
from chalicelib.lake.hour_folders import HourFolders
from chalicelib.lake.lake import Lake
from chalicelib.privacy.export import Exporter
from chalicelib.quarantine.store import QuarantineFiles
from tests.privacy.erasing import World, world
from tests.privacy.test_erase import HERS, THERE, lived_in


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        lived_in(made)
        yield made


def exporter(place: World, bucket: DataBucket | None = None) -> Exporter:
    stores, bucket = place.stores, bucket or place.stores.bucket

    def rejected(project: str, ids: Any) -> Iterator[dict[str, Any]]:
        return (record.to_json() for record in QuarantineFiles(stores.bucket).naming(project, ids))

    def ids_of(project: str, user: str) -> list[str]:
        return stores.users.ids_of(project, user, stores.events.is_user)

    lake, folders = Lake(bucket), HourFolders(bucket)
    return Exporter(lake, folders, place.hours, stores.events, stores.users, ids_of, rejected)


def exported(place: World, folder: Path) -> list[str]:
    """The ids in the files, as DuckDB reads them."""
    for day in place.lake.days("demo"):
        for hour in range(24):
            exporter(place).hour("demo", f"{day}T{hour:02d}", folder)
    found = duckdb.sql(f"SELECT event_id FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true)")
    assert found is not None
    return sorted(row[0] for row in found.fetchall())


def test_a_users_export_has_all_there_is_of_them_and_nothing_of_others(place: World) -> None:
    days: list[None] = []

    found = exporter(place).user("demo", HERS[0], place.lake.days("demo"), lambda: days.append(None))

    assert [event["event_id"] for event in found["events"]] == ["h1", "a1", "a0", "i1"]
    assert found["previous_ids"] == [HERS[1]]
    assert found["traits"] == {"address": HERS[3], "email": HERS[2], "title": HERS[4]}
    codes = sorted(record["code"] for record in found["rejected"])
    assert codes == ["contract_violation", "contract_violation", "unknown_event_type"]
    assert len(days) == len(place.lake.days("demo"))
    assert THERE not in str(found)


def test_what_is_in_lake_and_table_is_there_once_before_and_after_its_hour_is_one_file(place: World) -> None:
    before = exporter(place).user("demo", HERS[0], place.lake.days("demo"), lambda: None)
    place.wait(120)

    assert exporter(place).user("demo", HERS[0], place.lake.days("demo"), lambda: None) == before
    assert exporter(place).user("demo", HERS[0], [], lambda: None)["events"][0]["event_id"] == "a1"


def test_a_projects_export_has_each_event_once_and_is_brought_up_to_date(place: World, tmp_path: Path) -> None:
    place.receive(*({"event_id": f"n{n}", "event_type": "click", "user_id": THERE} for n in range(3)))
    place.flow()
    ids = exported(place, tmp_path)
    place.wait(120)
    place.wait(120)

    assert ids == exported(place, tmp_path)
    assert ids == ["a0", "a1", "b0", "b1", "b2", "h1", "h2", "i1", "n0", "n1", "n2"]
    assert len(list(tmp_path.rglob("*.parquet"))) == len(list(tmp_path.rglob("hr=*")))


def test_a_version_that_comes_while_an_hour_is_looked_up_leaves_nothing_out(place: World, tmp_path: Path) -> None:
    place.wait(120)
    hours = [hour for hour in place.hours.between("demo", "2026-11-21T00", "2026-11-21T23") if hour.version]
    hour = hours[0].hour
    rows = exporter(place).hour("demo", hour, tmp_path / "before")
    assert rows > 0

    class Busy(DataBucket):
        """Another version is committed right after each listing of the hour's folder."""

        __slots__ = ()

        def sizes(self, prefix: str) -> dict[str, int]:
            found = DataBucket.sizes(self, prefix)
            if prefix == hour_folder("demo", hour):
                place.finisher.finish("demo", hour, place.now_ms, anew=True)
            return found

    assert exporter(place, Busy(place.stores.bucket.client, "data")).hour("demo", hour, tmp_path / "while") == rows
