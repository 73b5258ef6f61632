"""The waits fit each other, and what the platform's configuration says."""

import json
import re
from pathlib import Path

import pytest

from chalicelib.base import waits
from chalicelib.base.time_windows import DAY_MS
from infra.functions import FUNCTIONS, TIMEOUT_SECONDS
from infra.project import ROOT
from infra.stack import TEMPLATE

SOURCE = Path(waits.__file__).read_text()


@pytest.mark.parametrize(
    ("wait", "value_ms", "broken"),
    [
        ("TOMBSTONE_MS", 20 * 3_600_000, "counts twice"),
        ("FOLD_MS", 60_000, "miss minutes that are in a base"),
        ("NAMED_MS", 300_000, "a reader counts a delta beside a base"),
        ("STALE_MS", 300_000, "neither in a dashboard's snapshot nor pushed"),
        ("GRACE_MS", 30 * 60_000, "deleted that a consolidation is reading"),
        ("VISIBLE_AGE_MS", 40 * 60_000, "deleted while a query reads it"),
        ("READY_MS", 10 * 60_000, "does not know a marker"),
        ("LAST_LOOK_MS", 55 * 60_000, "an erasure is done before"),
        ("GUARD_MS", 40_000, "missed a flag"),
    ],
)
def test_a_wait_that_is_changed_alone_is_refused_with_what_would_break(wait: str, value_ms: int, broken: str) -> None:
    changed, count = re.subn(rf"^{wait} = .*$", f"{wait} = {value_ms}", SOURCE, flags=re.MULTILINE)

    assert count == 1
    with pytest.raises(AssertionError, match=broken):
        exec(compile(changed, "waits.py", "exec"), {})


def test_functions_end_by_the_time_that_waits_rest_on() -> None:
    assert max(function.timeout_seconds for function in FUNCTIONS) * 1000 <= waits.FUNCTION_MS
    assert TIMEOUT_SECONDS * 1000 == waits.EDGE_MS
    [aggregate] = [function for function in FUNCTIONS if function.name == "aggregate"]
    assert aggregate.timeout_seconds * 1000 < waits.WRITTEN_MS


def test_an_import_ends_by_the_time_that_waits_rest_on() -> None:
    workflow = json.loads((ROOT / "infra" / "workflows" / "import.asl.json").read_text())

    assert workflow["TimeoutSeconds"] * 1000 <= waits.IMPORT_MS


def test_what_expires_by_itself_does_so_when_the_waits_say() -> None:
    template = TEMPLATE.read_text()

    assert f"MessageRetentionPeriod: {waits.QUEUE_MS // 1000}" in template
    assert f"{{Id: results-expiry, Status: Enabled, ExpirationInDays: {waits.RESULTS_MS // DAY_MS}}}" in template
