"""Builds the lake layer (pyarrow, numpy) and publishes it: `python -m infra.layer --stage prod`.

Only the functions that write Parquet carry it. It is published by way of the results bucket, because a direct upload
ends at 50 MB; the version's ARN is recorded in .chalice/config.json.
"""

import base64
import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.functions import LAYERED
from infra.project import (
    BUILD,
    ROOT,
    OperatorError,
    client,
    read_config,
    run,
    stack_name,
    stage_argument,
    write_config,
)
from infra.pythons import WANTED, find_python

REQUIREMENTS = ROOT / "infra" / "layer-requirements.txt"
ARCHITECTURE = "x86_64"  # Chalice picks x86_64 wheels, whatever lambda_architecture says
PLATFORM = "manylinux_2_28_x86_64"  # Lambda's Python 3.12 and newer have glibc 2.34
MANYLINUX = ("manylinux_2_27_x86_64", "manylinux2014_x86_64")  # older names that wheels still carry
# Tests, headers and sources, and the parts of pyarrow for stores that no function speaks to.
PRUNED = (
    "**/tests",
    "**/include",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.h",
    "bin",
    "pyarrow/src",
    "pyarrow/*flight*",
    "pyarrow/libarrow_s3.*",
    "pyarrow/_s3fs.*",
    "pyarrow/_gcsfs.*",
    "pyarrow/_azurefs.*",
    "pyarrow/_hdfs.*",
    "pyarrow/_pyarrow_cpp_tests.*",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A built layer: the zip, what was zipped, and the Python it is for."""

    version: str
    zip: Path
    folder: Path

    @property
    def size_bytes(self) -> int:
        """Unzipped."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @property
    def sha256(self) -> str:
        """In Lambda's form."""
        return base64.b64encode(hashlib.sha256(self.zip.read_bytes()).digest()).decode()


def build(version: str, python: Path) -> Layer:
    """Download the wheels for Lambda, leave out what no function uses, compile and zip; same input, same zip."""
    layer = Layer(version, BUILD / f"lake-layer-{version}.zip", BUILD / f"lake-layer-{version}")
    stamp = BUILD / f"lake-layer-{version}.made-from"
    made_from = REQUIREMENTS.read_text() + Path(__file__).read_text()
    if layer.zip.exists() and stamp.exists() and stamp.read_text() == made_from:
        return layer
    shutil.rmtree(layer.folder, ignore_errors=True)
    target = layer.folder / "python"
    platforms = [option for name in (PLATFORM, *MANYLINUX) for option in ("--platform", name)]
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "--no-compile",
        "--target",
        str(target),
    ]
    wheels = [*platforms, "--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    if subprocess.run([*command, *wheels, "-r", str(REQUIREMENTS)], check=False).returncode:
        raise OperatorError(f"pip could not download the layer for Python {version}; its message is above")
    prune(target)
    # Without .pyc, importing takes nearly twice as long; unchecked, because times in a zip mean nothing.
    subprocess.run(
        [python, "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash", "-s", layer.folder, target],
        check=True,
    )
    zip_folder(layer.folder, layer.zip)
    stamp.write_text(made_from)
    return layer


def prune(target: Path) -> None:
    """Remove what PRUNED names, and the second and third copies of each library (wheels hold no links)."""
    for pattern in PRUNED:
        for path in list(target.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for library in list(target.glob("pyarrow/lib*.so.*")):
        parts = library.name.partition(".so.")
        if "." in parts[2]:
            library.unlink()  # the full version; the loader asks for the major one
        else:
            library.with_name(f"{parts[0]}.so").unlink(missing_ok=True)  # the linker's name


def zip_folder(folder: Path, target: Path) -> None:
    """Every file in order and with the same date, so that the same content is the same zip."""
    draft = target.with_suffix(".draft")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o755 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    draft.replace(target)


def publish(layer: Layer, name: str, bucket: str, s3: Any, lambda_: Any) -> str:
    """Publish the content unless the newest version has it; return the ARN of the version that does."""
    runtime = f"python{layer.version}"
    versions = lambda_.list_layer_versions(LayerName=name, MaxItems=1)["LayerVersions"]
    if versions:
        newest = lambda_.get_layer_version(LayerName=name, VersionNumber=versions[0]["Version"])
        if newest["Content"]["CodeSha256"] == layer.sha256 and newest["CompatibleRuntimes"] == [runtime]:
            return str(versions[0]["LayerVersionArn"])
    key = f"layers/{layer.zip.name}"
    s3.upload_file(str(layer.zip), bucket, key)
    published = lambda_.publish_layer_version(
        LayerName=name,
        Description="pyarrow and numpy, pruned (infra/layer.py)",
        Content={"S3Bucket": bucket, "S3Key": key},
        CompatibleRuntimes=[runtime],
        CompatibleArchitectures=[ARCHITECTURE],
    )
    return str(published["LayerVersionArn"])


def record(config: dict[str, Any], stage: str, arn: str, functions: Iterable[str] = LAYERED) -> bool:
    """Give the layer to its functions; whether that changed anything."""
    settings = config["stages"][stage]["lambda_functions"]
    different = [function for function in functions if settings[function].get("layers") != [arn]]
    for function in different:
        settings[function]["layers"] = [arn]
    return bool(different)


def results_bucket(sts: Any, stage: str) -> str:
    """The bucket through which the zip goes; its objects expire after a week, and a version keeps its own copy."""
    return f"{stack_name(stage)}-results-{sts.get_caller_identity()['Account']}"


def ensure(stage: str, layer: Layer, bucket: str, s3: Any, lambda_: Any) -> str:
    """Publish where it differs and record the ARN, which is returned."""
    arn = publish(layer, f"{stack_name(stage)}-lake", bucket, s3, lambda_)
    config = read_config()
    record(config, stage, arn)
    write_config(config)
    return arn


def main() -> int:
    """Build, publish when it differs, record."""
    stage = stage_argument(__doc__).parse_args().stage
    version, python = find_python(WANTED)
    print(f"building the lake layer for Python {version} ...", flush=True)
    layer = build(version, python)
    print(f"publishing {layer.zip.stat().st_size / 2**20:.1f} MB where it differs ...", flush=True)
    arn = ensure(stage, layer, results_bucket(client("sts"), stage), client("s3"), client("lambda"))
    print(f"{arn} is the layer of {', '.join(LAYERED)}")
    return 0


if __name__ == "__main__":
    run(main)
