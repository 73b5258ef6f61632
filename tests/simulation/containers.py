"""Containers of Lambda: each has its own stages, clients and caches, though all are in one process.

The functions of the wiring modules that make something once per container do so once per container here as well.
"""

import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import _lru_cache_wrapper, cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import boto3
import pyarrow as pa

from chalicelib.events.contracts import Contract, Contracts
from chalicelib.rollups.rollups import RollupSpec
from tests.simulation import resources
from tests.simulation.entropy import hash_of_text
from tests.simulation.ports.athena import in_short
from tests.simulation.scheduler import current

KEPT_DIMENSIONS = ("path", "country", "currency")  # of narrow contracts


@dataclass(eq=False)
class Container:
    """What lives as long as a process of a function; `skew_seconds` is by how much its clock is ahead."""

    function: str
    number: int
    skew_seconds: float = 0.0
    made: dict[Any, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.function}/{self.number}"


class Observer:
    """Who looks from outside of every function has one container, too; its clients fail never."""

    container = Container("observer", 0)
    client: Callable[[str], Any]
    asks_in_full = False
    contracts: Contracts  # of the history, whichever container it is


def container() -> Container:
    """Whose the running code is."""
    actor = current()
    return actor.container if actor is not None and actor.container is not None else Observer.container


def load() -> Any:
    """Import the app and have it make everything per container; returns the Chalice app."""
    boto3.client = lambda service, **_: Observer.client(service)
    import app
    import chalicelib

    for each in pkgutil.walk_packages(chalicelib.__path__, "chalicelib."):
        import_module(each.name)
    modules = [module for name, module in sys.modules.items() if name == "app" or name.startswith("chalicelib")]
    replaced: dict[int, Callable[..., Any]] = {}
    for module in modules:
        for name, made in list(vars(module).items()):
            if isinstance(made, _lru_cache_wrapper) and "wiring" in made.__module__:
                new = (lambda: Observer.contracts) if name == "contracts" else _per_container(made.__wrapped__)
                setattr(module, name, replaced.setdefault(id(made), new))
        if "COMPRESSION" in vars(module):
            vars(module)["COMPRESSION"] = "none"  # a third of what small files take
        _put_hash(module)
    _ask_in_short()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    app.app.current_request = None
    return app.app


@cache
def contracts_of(*, narrow: bool) -> Contracts:
    """The repository's contracts; narrow ones have few dimensions and a measure, for each costs every hour an item."""
    whole = Contracts.load(resources.ROOT / "schemas")
    if not narrow:
        return whole

    def narrowed(contract: Contract) -> Contract:
        kept = tuple(each for each in contract.spec.dimensions if each in KEPT_DIMENSIONS)
        return replace(contract, spec=RollupSpec(kept, contract.spec.measures[:1]))

    return Contracts({name: narrowed(each) for name, each in whole.by_type.items()}, whole.older)


def _per_container(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def made(*arguments: Any) -> Any:
        kept, key = container().made, (make, arguments)
        if key not in kept:
            kept[key] = make(*arguments)
        return kept[key]

    return made


def _put_hash(module: ModuleType) -> None:
    """A module that keeps hashes of texts takes those that are the same in each process."""
    if module.__name__.endswith(".merging"):
        vars(module)["hash"] = hash_of_text


def _ask_in_short() -> None:
    """POST /query asks by the same conditions as ever; its text is not written out, unless a history wants it."""
    from chalicelib.sql import confine as sql

    confine, read = sql.confine, sql.read

    def asked(statement: Any, *, project: str, visible: Any, **more: Any) -> str:
        if Observer.asks_in_full:
            return confine(statement, project=project, visible=visible, **more)
        unsettled = visible.unsettled("name") if visible.hours else None
        return in_short(project, visible.settled("name"), unsettled)

    sql.confine = asked
    sql.read = cache(read)
