"""The environment of each child process."""

import json
import os

from chalicelib.settings import BUFFERS
from infra.names import buffer_of, variable
from localcloud.places import HOST, PROJECT, REGION, STAGE, LocalCloudError, Places, Ports

SETTINGS_VARIABLE = "LOCALCLOUD_SETTINGS"  # JSON: what takes precedence over the stage's variables in config.json
# JSON: constants of the app that have other values, by their full names, in `functions` and in `rest`
PAUSES_VARIABLE = "LOCALCLOUD_PAUSES"


def cloud_environment(ports: Ports, places: Places) -> dict[str, str]:
    """Return what every child sees: the developer's own AWS settings are none of the local cloud's business."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    loopback = ",".join(filter(None, [own.get("NO_PROXY") or own.get("no_proxy"), HOST]))
    return {
        "MALLOC_ARENA_MAX": "2",  # of glibc: with one for each thread, memory that is free is not given to others
        **own,
        "NO_PROXY": loopback,
        "no_proxy": loopback,
        "PORT": str(ports.rest),
        "WS_PORT": str(ports.websocket),
        "CLOUD_PORT": str(ports.cloud),
        "TIDEMARK_STATE": str(places.root),
        "AWS_ENDPOINT_URL": ports.cloud_url,
        "PYTHONUNBUFFERED": "1",
    }


def chosen_buffer() -> str:
    """BUFFER of the environment, else the stage's; raises LocalCloudError for an unknown one."""
    config = json.loads((PROJECT / ".chalice" / "config.json").read_text())
    buffer = os.environ.get("BUFFER") or buffer_of(config, STAGE)
    if buffer not in BUFFERS:
        raise LocalCloudError(f"BUFFER is {buffer!r}; it must be one of {', '.join(BUFFERS)}")
    return buffer


def app_environment(ports: Ports, outputs: dict[str, str]) -> dict[str, str]:
    """Return what the app's processes see besides: the stack's outputs, and addresses that follow the chosen ports."""
    settings = {variable(name): value for name, value in outputs.items()}
    settings |= {
        "AWS_ENDPOINT_URL": ports.cloud_url,
        "AWS_DEFAULT_REGION": REGION,
        "BUFFER": chosen_buffer(),
        "WEBSOCKET_URL": f"ws://{HOST}:{ports.websocket}",
        "WEBSOCKET_MANAGEMENT_URL": f"http://{HOST}:{ports.websocket}",
    }
    return {SETTINGS_VARIABLE: json.dumps(settings)}
