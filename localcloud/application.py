"""Loads the Chalice app as `chalice local` does, for the processes that serve its functions and its REST API."""

import importlib
import json
import logging
import os
import sys
from typing import Any

from chalice.cli.factory import CLIFactory
from chalice.config import Config

from localcloud.environment import PAUSES_VARIABLE, SETTINGS_VARIABLE
from localcloud.places import PROJECT, STAGE, LocalCloudError


def load_app() -> tuple[Any, Config]:
    """Return the app object and its stage's configuration; the environment is the stage's, then the local cloud's."""
    errors = _show_errors()
    factory = CLIFactory(str(PROJECT), environ=os.environ)
    config = factory.create_config_obj(STAGE)
    variables: dict[str, str] = dict(config.environment_variables)
    for name in config.scope(STAGE, "api_handler").environment_variables:
        variables[name] = config.scope(STAGE, "api_handler").environment_variables[name]
    variables |= json.loads(os.environ.get(SETTINGS_VARIABLE, "{}"))
    app = factory.load_chalice_app(variables)
    app.log.addHandler(errors)  # which does not propagate
    return app, config


def set_pauses(process: str) -> None:
    """Give constants of the app the values that the environment has for this process, so that an hour takes a minute.

    Raises LocalCloudError for one that does not exist.
    """
    pauses: dict[str, float] = json.loads(os.environ.get(PAUSES_VARIABLE, "{}")).get(process, {})
    for name, value in pauses.items():
        module, _, constant = name.rpartition(".")
        owner = importlib.import_module(module)
        if not hasattr(owner, constant):
            raise LocalCloudError(f"{PAUSES_VARIABLE} names {name}, which does not exist")
        setattr(owner, constant, value)


def _show_errors() -> logging.Handler:
    """Standard output is the log; errors go to standard error too, which the supervisor shows in the terminal."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    everything = logging.StreamHandler(sys.stdout)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    for handler in (everything, errors):
        handler.setFormatter(form)
    everything.addFilter(lambda record: record.levelno < logging.ERROR)  # the supervisor copies the rest to the log
    logging.basicConfig(level=logging.INFO, handlers=[everything, errors])
    logging.getLogger("botocore").setLevel(logging.WARNING)
    return errors
