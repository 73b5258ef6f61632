"""Finds the interpreter that builds: Chalice packages for the Python it runs on, and the layer has to match it."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from infra.project import BUILD, OperatorError

# Lambda's Python 3.11 has glibc 2.26, for which numpy and pyarrow have no wheels any more.
WANTED = ("3.12", "3.13")
FALLBACK = "3.11"  # enough to look at the package, not to deploy


def find_python(versions: Iterable[str] = (*WANTED, FALLBACK)) -> tuple[str, Path]:
    """The first version that there is, and its interpreter; a name on the PATH that does not run does not count."""
    wanted = tuple(versions)
    for version in wanted:
        for candidate in _candidates(version):
            if _version_of(candidate) == version:
                return version, candidate
    raise OperatorError(f"no Python {' or '.join(wanted)} on the PATH or under ~/.pyenv/versions; install one")


def _candidates(version: str) -> Iterable[Path]:
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    installed = Path.home() / ".pyenv" / "versions"
    yield from sorted(installed.glob(f"{version}.*/bin/python{version}"), key=_patch_number, reverse=True)


def _patch_number(path: Path) -> int:
    found = re.match(r"\d+\.\d+\.(\d+)", path.parent.parent.name)
    return int(found[1]) if found else -1


def _version_of(python: Path) -> str | None:
    """MAJOR.MINOR of an interpreter that can make environments; None of a pyenv shim without its version."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def environment(version: str, python: Path, requirements: list[Path], extra: list[str]) -> Path:
    """The bin folder of a virtual environment under build/ with these requirements; made anew when they change."""
    folder = BUILD / f"venv-{version}"
    stamp = folder / "made-from"
    made_from = "\n".join([str(python), *extra, *(path.read_text() for path in requirements)])
    if stamp.exists() and stamp.read_text() == made_from:
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    options = [argument for path in requirements for argument in ("-r", str(path))]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if subprocess.run([*pip, *options, *extra], check=False).returncode:
        raise OperatorError(f"pip could not fill {folder}; its message is above")
    stamp.write_text(made_from)
    return folder / "bin"
