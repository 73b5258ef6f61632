"""What the package is checked for, and which Python builds it; `make package` itself runs in CI."""

from pathlib import Path

import pytest

from infra import costs, package, package_checks, project, pythons
from infra.package_checks import Contents
from infra.project import ROOT

OPERATIONS = ROOT / "docs" / "operations.md"
GOOD = {
    "app.py": 1,
    "chalice/app.py": 1,
    "chalicelib/wiring.py": 1,
    "schemas/click/1-0-0.json": 1,
    "dashboard/index.html": 1,
    "orjson-3.13.0.dist-info/METADATA": 1,
    "jsonschema_rs-0.60.3.dist-info/METADATA": 1,
}


def problems(names: dict[str, int]) -> list[str]:
    """The checks' verdict on a zip with these files."""
    return package_checks.problems(
        Contents(names, 100),
        modules=["chalicelib/wiring.py"],
        contracts=["schemas/click/1-0-0.json"],
        requirements=["orjson", "jsonschema-rs"],
    )


def test_a_complete_package_passes() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize("name", GOOD)
def test_whatever_is_missing_is_named(name: str) -> None:
    found = problems({other: size for other, size in GOOD.items() if other != name})

    assert len(found) == 1
    assert name.partition("-")[0].replace("_", "-") in found[0].replace("_", "-")


@pytest.mark.parametrize("name", package_checks.FORBIDDEN)
def test_what_does_not_ship_is_named(name: str) -> None:
    assert problems({**GOOD, f"{name}/__init__.py": 1}) == [f"{name}/ does not belong in it"]


def test_lambdas_limits_are_checked() -> None:
    megabyte = 2**20

    assert package_checks.size_problems(7 * megabyte, 20 * megabyte, 150 * megabyte) == []
    assert len(package_checks.size_problems(60 * megabyte, 100 * megabyte, 0)) == 1
    assert len(package_checks.size_problems(7 * megabyte, 110 * megabyte, 150 * megabyte)) == 1


def test_a_wheel_that_chalice_left_out_is_found_in_what_it_says() -> None:
    from chalice.constants import MISSING_DEPENDENCIES_TEMPLATE

    said = "Creating deployment package.\n" + MISSING_DEPENDENCIES_TEMPLATE % "orjson==3.13.0\nsqlglot==30.30.0"

    assert package_checks.not_installed(said) == ["orjson==3.13.0", "sqlglot==30.30.0"]
    assert package_checks.not_installed("Creating deployment package.\n") == []


def test_requirements_are_read_without_their_reasons() -> None:
    text = "# why\n-r other.txt\norjson==3.13.0   # fast\nJsonSchema_RS>=0.60 ; python_version > '3'\n\n"

    assert package_checks.required(text) == ["orjson", "jsonschema-rs"]


def test_the_build_uses_the_pinned_chalice_and_sdk() -> None:
    pins = package.pins("chalice", "boto3")

    assert [pin.partition("==")[0] for pin in pins] == ["chalice", "boto3"]


def test_a_name_on_the_path_that_does_not_run_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(project.OperatorError, match=r"no Python 3\.12"):
        pythons.find_python(["3.12"])


def test_the_costs_in_the_handbook_are_the_computed_ones() -> None:
    assert costs.table() in OPERATIONS.read_text(), "run: python -m infra.costs"
    decision = project.ROOT / "docs" / "decisions" / "0018-sqs-or-kinesis.md"
    assert costs.buffers() in decision.read_text(), "run: python -m infra.costs"


def test_every_position_shows_where_its_amount_comes_from() -> None:
    for scenario in costs.SCENARIOS:
        for line in costs.lines(scenario):
            assert line.dollars >= 0
            assert "$" in line.formula
            assert "×" in line.formula
