"""The app's own OpenAPI document."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chalicelib import __version__
from chalicelib.http.responses import STATUS

if TYPE_CHECKING:
    from chalicelib.events.contracts import Contracts


def described(routes: Mapping[str, Mapping[str, Any]], contracts: "Contracts", server: str) -> dict[str, Any]:
    """Describe the app's routes, which are served at the address `server`."""
    from chalicelib.http.answers import COMPONENTS  # here, because no other route needs any of it
    from chalicelib.http.openapi import document
    from chalicelib.http.operations import OPERATIONS

    return document(
        routes, OPERATIONS, COMPONENTS, statuses=STATUS, contracts=contracts, version=__version__, server=server
    )
