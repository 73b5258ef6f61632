"""Hours of a metric as arrays, read from the rollups one hour after the other."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.questions import QUANTILES
from chalicelib.domain.rollups import Rollup
from chalicelib.domain.sketches import quantile
from chalicelib.domain.time_windows import HOUR_MS, hour_of, hour_start_ms
from chalicelib.storage.rollups_table import RollupsTable


@dataclass(frozen=True, slots=True)
class RollupHistory:
    """Remembers the hours of the last project and range, because every metric of a project is asked for the same ones.

    Of an hour it keeps the counts and quantiles, not the sketches.
    """

    contracts: Contracts
    rollups: RollupsTable
    read: dict[tuple[str, int, int], dict[str, dict[str, "_Hour"]]] = field(default_factory=dict)

    def event_types(self, project: str) -> list[str]:
        """Every event type the project ever sent."""
        return self.rollups.event_types(project)

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
        """The half-open range's whole hours, by the dimension's value, or under "" without `group_by`.

        `agg` is count, or a percentile of the measure; NaN where nothing was measured. A count without events is 0.
        """
        event_type = self.contracts.type_of(metric) or metric
        length = (end_ms - start_ms) // HOUR_MS
        series: dict[str, NDArray[np.float64]] = {}
        if group_by is None:
            series[""] = np.full(length, 0.0 if agg == "count" else np.nan)
        for name, types in self._hours(project, start_ms, end_ms).items():
            found, place = types.get(event_type), (hour_start_ms(name) - start_ms) // HOUR_MS
            if found is None:
                continue
            if group_by is not None:
                for value, count in found.dimensions.get(group_by, {}).items():
                    series.setdefault(value, np.zeros(length))[place] = count
            elif agg == "count":
                series[""][place] = found.count
            elif (value_at := found.quantiles.get(f"{measure}.{agg}")) is not None:
                series[""][place] = value_at
        return series

    def _hours(self, project: str, start_ms: int, end_ms: int) -> "dict[str, dict[str, _Hour]]":
        asked = (project, start_ms, end_ms)
        if asked not in self.read:
            self.read.clear()
            names = self.rollups.hours(project, hour_of(start_ms), hour_of(end_ms - 1))
            self.read[asked] = {
                name: {kind: _Hour.of(rollup) for kind, rollup in self.rollups.read_hour(project, name).total().items()}
                for name in names
            }
        return self.read[asked]


@dataclass(frozen=True, slots=True)
class _Hour:
    """One type's hour. `quantiles` by `latency_ms.p95`."""

    count: int
    dimensions: dict[str, dict[str, int]]
    quantiles: dict[str, float | None]

    @classmethod
    def of(cls, rollup: Rollup) -> "_Hour":
        quantiles = {
            f"{measure}.{name}": quantile(found.buckets, q)
            for measure, found in rollup.measures.items()
            for name, q in QUANTILES.items()
        }
        return cls(rollup.count, rollup.dimensions, quantiles)
