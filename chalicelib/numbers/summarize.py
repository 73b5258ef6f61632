"""Answers the summary of a day from what closing keeps of its hours, and of hours yet open from what is live."""

from dataclasses import dataclass
from typing import Any

from chalicelib.base.errors import NotFound
from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_start_ms, hour_start_ms, hours_between
from chalicelib.events.contracts import Contracts
from chalicelib.numbers.summaries import Day, summary, summary_facets, total_of
from chalicelib.rollups.facets import ALL_TYPES, DERIVED
from chalicelib.rollups.history import History

EVENTS = "events"  # the name of every event type together


@dataclass(frozen=True, slots=True)
class Summarizer:
    """Reads; writes nothing."""

    contracts: Contracts
    history: History

    def day(self, project: str, name: str, day: Day, now_ms: int) -> dict[str, Any]:
        """Return the summary of a type, by its name or that of its metric; raises NotFound of one that was never sent.

        `open` says of an hour, and of the day, that not all of its numbers are those of its file: it is not over, or
        not closed since something came.
        """
        event_type = self._resolve(project, name)
        spec = DERIVED.get(event_type) or self.contracts.spec(event_type)
        first_ms = day_start_ms(day.date)
        hours = hours_between(first_ms, first_ms + DAY_MS)
        wanted = [(event_type, facet) for facet in summary_facets(spec)]
        found = self.history.facets(project, wanted, hours)
        by_facet = {facet: contents for (_, facet), contents in found.contents.items()}
        began = [hour for hour in hours if hour_start_ms(hour) <= now_ms]
        return {
            "event_type": EVENTS if event_type == ALL_TYPES else event_type,
            "date": day.date,
            "open": now_ms < first_ms + DAY_MS or bool(found.uncovered),
            "total": summary(total_of(by_facet), spec, day.top),
            "hours": [
                {
                    "start": f"{hour}:00:00Z",
                    "open": now_ms < hour_start_ms(hour) + HOUR_MS or hour in found.uncovered,
                    **summary(
                        {f: contents[hour] for f, contents in by_facet.items() if hour in contents}, spec, day.top
                    ),
                }
                for hour in began
            ],
        }

    def _resolve(self, project: str, name: str) -> str:
        if name == EVENTS:
            return ALL_TYPES
        known = self.contracts.type_of(name)
        if known is not None:
            return known
        seen = self.history.rollups.event_types(project)
        if name not in seen:
            names = sorted({EVENTS, *(contract.metric for contract in self.contracts), *seen})
            raise NotFound(
                f"event type {name[:64]!r} is unknown; known are {', '.join(names[:50])}", code="unknown_metric"
            )
        return name
