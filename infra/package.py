"""Builds what `chalice deploy --stage prod` would upload, and the lake layer, and checks both: `make package`.

Nothing is deployed and no account is needed. Exit code 1 when a check fails.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from infra import layer as lake_layer
from infra.functions import FUNCTIONS
from infra.package_checks import (
    DIRECT_UPLOAD_BYTES,
    LOCAL_KEY,
    MIB,
    UNZIPPED_BYTES,
    Contents,
    not_installed,
    problems,
    required,
    size_problems,
)
from infra.project import BUILD, CHALICE, ROOT, OperatorError, read_config, run
from infra.pythons import FALLBACK, environment, find_python

STAGE = "prod"
FOLDER = BUILD / "package"
REQUIREMENTS = ROOT / "requirements.txt"


def main() -> int:
    """Build, check, tell."""
    started = time.monotonic()
    version, python = find_python()
    say(f"Python {version}: {python}")
    if version == FALLBACK:
        print(
            f"warning: there is no Python 3.12 or 3.13 here. Lambda's Python {FALLBACK} has no wheels of numpy and "
            "pyarrow any more, so this package can be looked at, and not deployed.",
            file=sys.stderr,
        )
    say("preparing the build environment ...")
    binaries = environment(version, python, [REQUIREMENTS], pins("chalice", "boto3"))
    say("chalice package ...")
    archive, found = package(binaries)
    layer = None
    if version != FALLBACK:
        say("building the lake layer ...")
        layer = lake_layer.build(version, python)
    say("loading it as Lambda does ...")
    contents = read_zip(archive)
    found += problems(
        contents,
        modules=(path.relative_to(ROOT).as_posix() for path in ROOT.glob("chalicelib/**/*.py")),
        contracts=(path.relative_to(ROOT).as_posix() for path in ROOT.glob("schemas/*/*.json")),
        requirements=required(REQUIREMENTS.read_text()),
    )
    layer_bytes = layer.size_bytes if layer else 0
    found += size_problems(contents.zipped_bytes, contents.unzipped_bytes, layer_bytes)
    found += local_keys(archive) + load(archive, python, version, layer)
    print_sizes(contents, layer)
    for problem in found:
        print(f"FAILED: {problem}", file=sys.stderr)
    say(f"{'FAILED' if found else 'ok'}: {archive.relative_to(ROOT)}, in {time.monotonic() - started:.0f} s")
    return 1 if found else 0


def say(line: str) -> None:
    """Progress."""
    print(line, flush=True)


def pins(*names: str) -> list[str]:
    """Return the pinned requirements of that name in requirements-dev.txt."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements-dev.txt").read_text().splitlines()]
    return [line for line in lines if line.partition("==")[0] in names]


def package(binaries: Path) -> tuple[Path, list[str]]:
    """Return the zip, and what Chalice could not put into it.

    In Terraform's format, because SAM's refuses bucket events; only the zip is of use, for IAM's policy variables
    are Terraform's own syntax (docs/operations.md deploys with `chalice deploy`).
    """
    shutil.rmtree(CHALICE / "deployments", ignore_errors=True)  # the cache overlooks renamed files
    shutil.rmtree(FOLDER, ignore_errors=True)
    command = [str(binaries / "chalice"), "package", "--stage", STAGE, "--pkg-format", "terraform", str(FOLDER)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**surroundings, "AWS_DEFAULT_REGION": "us-east-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise OperatorError(f"chalice package failed:\n{last}")
    return FOLDER / "deployment.zip", [f"no wheel for {name}" for name in not_installed(done.stdout)]


def read_zip(archive: Path) -> Contents:
    """Names and sizes."""
    with zipfile.ZipFile(archive) as opened:
        return Contents({entry.filename: entry.file_size for entry in opened.infolist()}, archive.stat().st_size)


def local_keys(archive: Path) -> list[str]:
    """Return the files that hold a key of the local cloud; the zip that ships must not know it."""
    with zipfile.ZipFile(archive) as opened:
        own = [name for name in opened.namelist() if name.startswith(("app.py", "chalicelib/"))]
        return [f"{name} holds the local cloud's key" for name in own if LOCAL_KEY in opened.read(name)]


def load(archive: Path, python: Path, version: str, layer: lake_layer.Layer | None) -> list[str]:
    """Run infra/smoke.py on nothing but the zip, Lambda's boto3 and the layer; on Linux only, as the wheels are."""
    if sys.platform != "linux" or os.uname().machine != lake_layer.ARCHITECTURE:
        say("  left out: the wheels are Linux's, and this is not")
        return []
    unzipped, runtime = BUILD / "unzipped", BUILD / f"runtime-{version}"
    shutil.rmtree(unzipped, ignore_errors=True)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(unzipped)
    if not (runtime / "boto3").exists():
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--target", str(runtime)]
        if subprocess.run([*pip, *pins("boto3")], check=False).returncode:
            raise OperatorError(f"pip could not fill {runtime}; its message is above")
    variables = read_config()["stages"][STAGE]["environment_variables"]
    recorded_later = dict.fromkeys(("EVENTS_QUEUE_URL", "DATA_BUCKET", "RESULTS_BUCKET"), "unrecorded")
    found: list[str] = []
    for layers in ([], [layer.folder / "python"] if layer else []):
        if layers or not found:
            path = [str(folder) for folder in (unzipped, runtime, *layers)]
            handlers = ",".join(each.app_name for each in FUNCTIONS)
            command = [str(python), "-S", "-E", "-B", str(ROOT / "infra" / "smoke.py"), handlers, *path]
            done = subprocess.run(
                command,
                cwd=unzipped,
                env={**recorded_later, **variables, "AWS_DEFAULT_REGION": "us-east-1"},
                capture_output=True,
                text=True,
                check=False,
            )
            found += json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else [done.stderr.strip()]
    return found


def print_sizes(contents: Contents, layer: lake_layer.Layer | None) -> None:
    """What is used of each limit."""
    rows = [("function zip", contents.zipped_bytes, contents.unzipped_bytes)]
    if layer:
        rows.append(("lake layer (by way of S3)", layer.zip.stat().st_size, layer.size_bytes))
        rows.append(("archive: zip and layer", 0, contents.unzipped_bytes + layer.size_bytes))
    say(f"\n{'MiB':<28}{'zipped':>10}{'unzipped':>10}")
    for name, zipped, unzipped in rows:
        say(f"{name:<28}{f'{zipped / MIB:.1f}' if zipped else '':>10}{unzipped / MIB:>10.1f}")
    say(f"{'limit':<28}{DIRECT_UPLOAD_BYTES / MIB:>10.1f}{UNZIPPED_BYTES / MIB:>10.1f}\n")


if __name__ == "__main__":
    run(main)
