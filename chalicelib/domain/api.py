"""The app's own OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from chalicelib import __version__
from chalicelib.domain.answers import COMPONENTS
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.openapi import document
from chalicelib.domain.operations import OPERATIONS


def described(
    routes: Mapping[str, Mapping[str, Any]], statuses: Mapping[Any, int], contracts: Contracts, server: str
) -> dict[str, Any]:
    """Describe the routes, of which `statuses` says how errors are answered; `server` is the address they are at."""
    return document(
        routes, OPERATIONS, COMPONENTS, statuses=statuses, contracts=contracts, version=__version__, server=server
    )
