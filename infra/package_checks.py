"""What has to be true of the zip that `chalice deploy` uploads to every function; pure, on names and sizes."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

MIB = 2**20
DIRECT_UPLOAD_BYTES = 50 * 1000 * 1000  # Lambda's limit of a zip in the request, in its stricter reading
UNZIPPED_BYTES = 250 * MIB  # a function with its layers
# In the layer, in the runtime, or only on a laptop.
FORBIDDEN = ("pyarrow", "numpy", "boto3", "botocore", "duckdb", "ministack", "localcloud", "demo", "infra", "tests")
LOCAL_KEY = b"demo-write"  # the local cloud's seeded key must open nothing in production
MISSING_HEADING = "Could not install dependencies:"


@dataclass(frozen=True, slots=True)
class Contents:
    """A zip's files and their unzipped sizes."""

    sizes: Mapping[str, int]
    zipped_bytes: int

    @property
    def unzipped_bytes(self) -> int:
        return sum(self.sizes.values())


def problems(
    contents: Contents, *, modules: Iterable[str], contracts: Iterable[str], requirements: Iterable[str]
) -> list[str]:
    """Return a line for each thing that is missing, or there and should not be."""
    names = contents.sizes.keys()
    wanted = ["app.py", "chalice/app.py", "dashboard/index.html", *modules, *contracts]
    found = [f"{name} is missing" for name in wanted if name not in names]
    there = distributions(names)
    found += [f"the distribution {name} is missing" for name in requirements if name not in there]
    tops = {name.partition("/")[0] for name in names}
    found += [f"{name}/ does not belong in it" for name in FORBIDDEN if name in tops]
    return found


def size_problems(zip_bytes: int, unzipped_bytes: int, layer_bytes: int) -> list[str]:
    """Lambda's two limits."""
    found = []
    if zip_bytes > DIRECT_UPLOAD_BYTES:
        found.append(f"the zip has {zip_bytes / MIB:.1f} MiB; a direct upload ends at {DIRECT_UPLOAD_BYTES / MIB:.1f}")
    if unzipped_bytes + layer_bytes > UNZIPPED_BYTES:
        total = (unzipped_bytes + layer_bytes) / MIB
        found.append(f"with its layer it has {total:.1f} MiB unzipped; the limit is {UNZIPPED_BYTES / MIB:.0f}")
    return found


def distributions(names: Collection[str]) -> set[str]:
    """Return the normalized names of the installed distributions."""
    folders = {name.partition("/")[0] for name in names}
    return {normalized(f.partition("-")[0]) for f in folders if f.endswith((".dist-info", ".data"))}


def required(requirements: str) -> list[str]:
    """Return the normalized names in a requirements file."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return [normalized(re.split(r"[=<>~! \[;]", line)[0]) for line in lines if line and not line.startswith("-")]


def normalized(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def not_installed(chalice_output: str) -> list[str]:
    """Return the packages that Chalice found no wheel for: it says so, leaves them out, and ends with code 0."""
    if MISSING_HEADING not in chalice_output:
        return []
    rest = chalice_output.partition(MISSING_HEADING)[2].strip().splitlines()
    return [line.strip() for line in rest[: rest.index("") if "" in rest else None] if "==" in line]
