import subprocess
import sys
import uuid
from dataclasses import fields

from chalicelib.base.ids import new_event_id
from chalicelib.settings import Settings

HEAVY = (
    "numpy",
    "pyarrow",
    "datasketches",
    "duckdb",
    "ministack",
    "localcloud",
    "moto",
    "sqlglot",
    "chalicelib.http.openapi",
)


def test_the_edge_loads_no_heavy_library() -> None:
    code = (
        "import app, sys; from chalicelib import wiring; wiring.contracts();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert loaded.strip() == "[]"


ASKING = """
import os, sys
from tests.stores import empty_stores
from chalicelib.rollups.closing import Hour
from chalicelib.base.object_keys import hour_folder
from chalicelib.lake.visible_files import UnsettledHour
from chalicelib.lake.manifests import Manifest

with empty_stores() as stores:
    stores.hours.note("shop", "2026-11-20T09")
    stores.bucket.put(hour_folder("shop", "2026-11-20T09") + "tail-000001-r1.parquet", b"")
    stores.bucket.put(hour_folder("shop", "2026-11-20T09") + "tail-000001-r2.parquet", b"")
    stores.folders.manifests.write("shop", "2026-11-20T09", "v", Manifest({"tail-000001-r1.parquet": 1}))
    stores.hours.commit(Hour("shop", "2026-11-20T09"), "v", 1)
    from chalicelib import wiring
    wiring.client = {"dynamodb": stores.hours.client, "s3": stores.bucket.client}.get
    os.environ |= dict.fromkeys(NEEDED, "any") | {"ROLLUPS_TABLE": "rollups", "DATA_BUCKET": "data"}
    (found,) = wiring.stages().query_runner._unsettled_hours("shop")
    assert found == UnsettledHour("2026-11-20T09", "v", ("tail-000001-r2.parquet",)), found
print([name for name in ("numpy", "pyarrow") if name in sys.modules])
"""


def test_a_query_knows_the_files_of_its_hours_without_the_lakes_libraries() -> None:
    needed = [field.name.upper() for field in fields(Settings) if field.name != "buffer"]

    asked = f"NEEDED = {needed!r}\n{ASKING}"
    loaded = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout

    assert loaded.strip() == "[]"


def test_made_ids_are_unique_and_ordered_by_time() -> None:
    ids = [new_event_id(1_795_226_700_000 + ms) for ms in range(1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert {uuid.UUID(made).version for made in ids} == {7}
