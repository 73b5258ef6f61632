"""Loads the package as Lambda does: only the zip, the layer and boto3 are there. Run by `make package` with the
interpreter of the build; prints what does not work, a line each.

    python -S -E smoke.py HANDLERS UNZIPPED RUNTIME [LAYER]

HANDLERS are the functions' names in app.py, with commas between; RUNTIME holds boto3, as Lambda's own does.
"""

import importlib
import json
import pkgutil
import sys


def main() -> list[str]:
    """Without the layer, every handler; with it, every module and a Parquet file."""
    handlers, *folders = sys.argv[1:]
    sys.path[:0] = folders
    app = importlib.import_module("app")
    if len(folders) == 2:
        return light(app, handlers.split(","))
    return [] if parquet() else ["the layer writes no Parquet file"]


def light(app: object, handlers: list[str]) -> list[str]:
    """Return the edge loads, answers, and has not imported what belongs in the layer."""
    found = [f"app.{name} is missing" for name in handlers if not hasattr(app, name)]
    for path in ("/health", "/dashboard"):
        answer = app.app(request(path), None)  # type: ignore[attr-defined]
        if answer["statusCode"] != 200:
            found.append(f"GET {path} answers {answer['statusCode']}: {answer['body'][:200]}")
    wiring = importlib.import_module("chalicelib.wiring")
    root = importlib.import_module("chalicelib.settings").ROOT
    if not list((root / "schemas").glob("*/*.json")):
        found.append(f"no contract below {root / 'schemas'}")
    wiring.contracts()
    found += [f"the edge imports {name}" for name in ("pyarrow", "numpy") if name in sys.modules]
    return found


def parquet() -> bool:
    """A lake file with one event, written by the archive's own code, once every module is loaded."""
    chalicelib = importlib.import_module("chalicelib")
    for module in pkgutil.walk_packages(chalicelib.__path__, "chalicelib."):
        importlib.import_module(module.name)
    lake = importlib.import_module("chalicelib.lake.lake")
    written: dict[str, bytes] = {}

    class Bucket:
        def put(self, key: str, content: bytes) -> None:
            written[key] = content

    event = {"event_id": "1", "event_type": "page_view", "occurred_at": 1_700_000_000_000, "properties": {"a": 1}}
    lake.Lake(Bucket()).write("lake/file.parquet", [lake.Row(event, 1_700_000_000_000)])
    return written["lake/file.parquet"][:4] == b"PAR1"


def request(path: str) -> dict[str, object]:
    """API Gateway's event of a GET."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": "GET",
        "headers": {"accept": "*/*"},
        "multiValueHeaders": {},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {"httpMethod": "GET", "resourcePath": path, "path": path, "identity": {"sourceIp": "-"}},
        "body": None,
        "isBase64Encoded": False,
    }


if __name__ == "__main__":
    print(json.dumps(main()))
