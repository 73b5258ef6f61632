"""What functions are handed by triggers, where Chalice's own class takes too much for granted."""

from typing import Any

from chalice.app import CloudWatchEvent


class BusEvent(CloudWatchEvent):
    """An event of the bus, all of it in `to_dict`: Chalice's raises KeyError where a field is missing."""

    def _extract_attributes(self, event_dict: dict[str, Any]) -> None:
        """Leave it there."""
