"""The catalogue of mutants fits the code: `make mutants` then shows that each of them is caught."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.catalogue import ROOT, Misplaced, Mutant, catalogue

FEWEST = 50
# What a module does that changes a store, or tells somebody.
WRITES = re.compile(
    r"put_item|update_item|delete_item|transact_write_items|batch_write_item|put_object|\.put\("
    r"|\.write(_together|_showing)?\(|send_message|put_records|start_execution|\.publish\(|put_events|post_to_connection"
)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
[PURE] = (set(contract["source_modules"]) for contract in CONTRACTS if contract["name"].startswith("What computes"))
MUTANTS = catalogue()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_stands_in_its_file_once_and_can_be_compiled(mutant: Mutant) -> None:
    planted = mutant.planted_in((ROOT / mutant.file).read_text())

    assert planted.count("\n") > 10
    compile(planted, mutant.file, "exec")


def test_a_mutant_uses_only_names_that_there_are(tmp_path: Path) -> None:
    """One that crashes is caught by anything, and so shows nothing: after a renaming, for instance."""
    for number, mutant in enumerate(mutant for mutant in MUTANTS if mutant.file.endswith(".py")):
        (tmp_path / f"m{number}.py").write_text(mutant.planted_in((ROOT / mutant.file).read_text()))

    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--no-cache",
        "--select=F821",
        "--output-format=concise",
    ]
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout


def test_each_mutant_has_a_name_and_a_catcher_of_its_own() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    tests = {test for mutant in MUTANTS for test in mutant.caught_by}
    sources = {test.partition("::")[0]: (ROOT / test.partition("::")[0]).read_text() for test in tests}

    assert len(MUTANTS) >= FEWEST
    assert [name for name, count in names.items() if count > 1] == []
    assert [mutant.name for mutant in MUTANTS if not mutant.caught_by and mutant.seed is None] == []
    missing = [test for test in tests if f"def {test.partition('::')[2]}(" not in sources[test.partition("::")[0]]]
    assert missing == []


def test_each_stage_and_each_store_that_is_written_has_a_mutant() -> None:
    made = "".join((ROOT / "chalicelib" / name).read_text() for name in ("stages.py", "lake_stages.py"))
    stages = set(re.findall(r"^    from (chalicelib\.\w+\.\w+) import", made, re.MULTILINE))  # whose classes are named
    paths = [*(ROOT / "chalicelib").rglob("*.py")]
    modules = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}

    wanted = {
        path.relative_to(ROOT).as_posix()
        for path, module in modules.items()
        if module not in PURE and (module in stages or WRITES.search(path.read_text()))
    }

    assert len(wanted) >= len(stages - PURE) > 20
    assert sorted(wanted - {mutant.file for mutant in MUTANTS}) == []


def test_a_mutant_whose_place_is_gone_says_what_to_do() -> None:
    lost = Mutant("a bug", "chalicelib/hours/close.py", "no such text", "")

    with pytest.raises(Misplaced, match="has its text 0 times, and must have it once"):
        lost.planted_in("some other text")
