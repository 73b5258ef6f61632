"""Hours of a metric as arrays, for numpy: what rollups/history.py says, closed or live."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chalicelib.base.time_windows import HOUR_MS, hour_of, hour_start_ms
from chalicelib.events.contracts import Contracts
from chalicelib.numbers.questions import QUANTILES
from chalicelib.rollups.facets import COUNTS, facet_of, quantiles_of
from chalicelib.rollups.history import History
from chalicelib.rollups.sketches import quantile


@dataclass(frozen=True, slots=True)
class RollupHistory:
    """Reads one facet at a time."""

    contracts: Contracts
    history: History

    def event_types(self, project: str) -> list[str]:
        """Return every event type the project ever sent."""
        return self.history.rollups.event_types(project)

    def hourly(
        self,
        project: str,
        metric: str,
        start_ms: int,
        end_ms: int,
        *,
        agg: str = "count",
        measure: str | None = None,
        group_by: str | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """Return the half-open range's whole hours, by the dimension's value, or under "" without `group_by`.

        `agg` is count, or without `group_by` a percentile of the measure; NaN where nothing was measured. A count
        without events is 0.
        """
        event_type = self.contracts.type_of(metric) or metric
        facet = COUNTS if agg == "count" else quantiles_of(measure or "")
        hours = self.history.hours(
            project, event_type, facet_of(facet, group_by), hour_of(start_ms), hour_of(end_ms - 1)
        )
        length = (end_ms - start_ms) // HOUR_MS
        series: dict[str, NDArray[np.float64]] = {}
        if group_by is None:
            series[""] = np.full(length, 0.0 if agg == "count" else np.nan)
        for hour, rollup in hours.items():
            place = (hour_start_ms(hour) - start_ms) // HOUR_MS
            if group_by is not None:
                for value, cell in rollup.dimensions.get(group_by, {}).items():
                    series.setdefault(value, np.zeros(length))[place] = cell.count
            elif agg == "count":
                series[""][place] = rollup.count
            elif measure in rollup.measures:
                found = quantile(rollup.measures[measure].buckets, QUANTILES[agg])
                series[""][place] = np.nan if found is None else found
        return series
