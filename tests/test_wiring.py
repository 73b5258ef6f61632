import subprocess
import sys
import uuid

from chalicelib.wiring import new_event_id

HEAVY = (
    "numpy",
    "pyarrow",
    "datasketches",
    "duckdb",
    "ministack",
    "localcloud",
    "moto",
    "sqlglot",
    "chalicelib.domain.openapi",
)


def test_the_edge_loads_no_heavy_library() -> None:
    code = (
        "import app, sys; from chalicelib import wiring; wiring.contracts();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert loaded.strip() == "[]"


def test_made_ids_are_unique_and_ordered_by_time() -> None:
    ids = [new_event_id(1_795_226_700_000 + ms) for ms in range(1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert {uuid.UUID(made).version for made in ids} == {7}
