"""Events of the account's bus, which AWS services and others put there, become events of one project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.access.authorize import Authorizer
from chalicelib.ingest.bus import is_notice, read_bus_event
from chalicelib.ingest.collect import Collector


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes an event of the bus, for the project that the setting names; raises what `Collector.collect` raises."""

    authorizer: Authorizer
    collector: Collector
    project: str  # empty: nobody's, and none is taken

    def receive(self, event: Mapping[str, Any], now_ms: int) -> None:
        """Collect it, unless it is a notice of ours."""
        if not is_notice(event):
            owner = self.authorizer.project_of_bus(self.project)
            self.collector.collect(read_bus_event(event), owner, now_ms)
