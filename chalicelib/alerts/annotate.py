"""What is shown beside the series: annotations, which users make, and anomalies, which `detect` finds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from chalicelib.alerts.annotations import Listing, read_annotation
from chalicelib.alerts.annotations_table import AnnotationsTable
from chalicelib.alerts.anomalies_table import AnomaliesTable
from chalicelib.base.time_windows import HOUR_MS, hour_of, iso_ms

MAX_SHOWN = 1000  # beside a series

Shown = TypeVar("Shown")


@dataclass(frozen=True, slots=True)
class Annotator:
    """Keeps annotations; reads anomalies."""

    annotations: AnnotationsTable
    anomalies: AnomaliesTable

    def create(self, project: str, document: Mapping[str, Any], now_ms: int) -> tuple[dict[str, Any], bool]:
        """The annotation of its id, and whether it is what was sent; a first one stays. Raises InvalidRequest."""
        asked = read_annotation(document, project, now_ms)
        kept = self.annotations.put(asked)
        return kept.to_json(), kept == asked

    def between(self, project: str, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """Return the annotations of the half-open range in order; of more than 1,000 the latest."""
        found = islice(self.annotations.latest(project, start_ms, iso_ms(end_ms)), MAX_SHOWN)
        return [annotation.to_json() for _, annotation in found][::-1]

    def show(self, project: str, listing: Listing) -> dict[str, Any]:
        """Return a page of annotations, the latest first; `next` is the `before` of the page after it."""
        before = _earlier(listing.before, iso_ms(listing.end_ms))
        latest = self.annotations.latest(project, listing.start_ms, before)
        found, following = _page(latest, listing.limit)
        return {"annotations": [annotation.to_json() for annotation in found], "next": following}

    def show_anomalies(self, project: str, listing: Listing) -> dict[str, Any]:
        """Return a page of anomalies whose hours begin in the range, the latest first."""
        first = hour_of(listing.start_ms + -listing.start_ms % HOUR_MS)
        before = _earlier(listing.before, hour_of(listing.end_ms + -listing.end_ms % HOUR_MS))
        latest = self.anomalies.latest(project, first, before)
        found, following = _page((pair for pair in latest if listing.chosen(pair[1])), listing.limit)
        return {"anomalies": [anomaly.to_json() for anomaly in found], "next": following}


def _earlier(before: str | None, end: str) -> str:
    return end if before is None else min(before, end)


def _page(found: Iterable[tuple[str, Shown]], limit: int) -> tuple[list[Shown], str | None]:
    """Return the first ones, and the place of the last, if more follow."""
    page = list(islice(found, limit + 1))
    return [shown for _, shown in page[:limit]], page[limit - 1][0] if len(page) > limit else None
