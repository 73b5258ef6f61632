"""What a project's rollups say of any hour or day, closed or live: nothing twice, nothing missing.

Read in this order: open deltas, then closed items, then merged ones. Merged items name the deltas that they took in,
and closed items cover merged ones, so whatever moves on meanwhile is found once. Merged items come last because they
stay for a while after they are closed: read before the closed ones, a delta that is merged and closed in between would
be counted with both.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from chalicelib.base.time_windows import day_of, hour_start_ms, hours_between, hours_of
from chalicelib.rollups.closed_table import DAY, HOUR, WHOLE, Closed, ClosedTable
from chalicelib.rollups.closing import NOTHING_COVERED, Cover
from chalicelib.rollups.deltas import HourView, Merged, frame_id, split_frame_id
from chalicelib.rollups.facets import ALL_TYPES, COUNTS, Excerpt, all_types, content_of, is_empty, needed
from chalicelib.rollups.ledger import Ledger
from chalicelib.rollups.rollups import OTHER, Rollup, Rollups
from chalicelib.rollups.rollups_table import RollupsTable
from chalicelib.rollups.signatures import NOTHING

Facet = tuple[str, str]  # event type, or ALL_TYPES, and facet


@dataclass(frozen=True, slots=True)
class Facets:
    """What readers see of some hours: `contents` by facet and hour; `covers` says what the closed items cover of them.

    `uncovered` are the hours with live items that no closed one covers.
    """

    contents: Mapping[Facet, Mapping[str, Rollup]]
    covers: Mapping[tuple[Facet, str], Cover]
    uncovered: frozenset[str]


@dataclass(frozen=True, slots=True)
class History:
    """Reads; writes nothing."""

    rollups: RollupsTable
    closed: ClosedTable

    def hours(
        self, project: str, event_type: str | None, facet: str, first: str, last: str, *, totals: bool = False
    ) -> dict[str, Rollup]:
        """Return a facet of each hour from `first` to `last`, both included, that has data.

        With `totals`, of facets of counts, only how many. `event_type` None stands for all types together, of which
        only counts and users are kept, with their `event_type` as dimension.
        """
        excerpt = needed(event_type, facet, totals=totals)
        deltas = self.rollups.read_deltas(project, first, last, excerpt=excerpt)
        name = event_type or ALL_TYPES
        found: dict[str, Rollup] = {}
        covers: dict[str, Cover] = {}
        kept = _kept(name, facet, totals)
        if facet == COUNTS:
            for day in self.closed.read(project, name, facet, DAY, day_of(first), day_of(last), kept):
                covers |= day.covers
                found |= {hour: content for hour, content in day.rollups.items() if first <= hour <= last}
        else:
            for item in self.closed.read(project, name, facet, HOUR, first, last, kept):
                covers |= item.covers
                found[item.start] = item.rollups[WHOLE]
        for hour, view in self.rollups.views(project, first, last, deltas, excerpt).items():
            live = view.total(covers.get(hour, NOTHING_COVERED))
            if live:
                found.setdefault(hour, Rollup()).merge(_content(live, event_type, facet))
        return dict(sorted(found.items()))

    def days(
        self, project: str, event_type: str | None, facet: str, first: str, last: str, *, totals: bool = False
    ) -> dict[str, Rollup]:
        """As `hours`, of each UTC day from `first` to `last` (`2026-11-21`), both included."""
        if facet == COUNTS:
            return by_day(self.hours(project, event_type, facet, *hours_of(first, last), totals=totals))
        excerpt = needed(event_type, facet, totals=totals)
        hours = hours_of(first, last)
        deltas = self.rollups.read_deltas(project, *hours, excerpt=excerpt)
        noted = [day for day in self.closed.noted_days(project) if first <= day <= last]
        name = event_type or ALL_TYPES
        found: dict[str, Rollup] = {}
        covers: dict[str, Cover] = {}
        kept = _kept(name, facet, totals)
        for item in self.closed.read(project, name, facet, DAY, first, last, kept):
            if item.start not in noted:
                covers |= item.covers
                found[item.start] = item.rollups[WHOLE]
        if noted:  # these are told by their hours: today, mostly
            for item in self.closed.read(project, name, facet, HOUR, *hours_of(noted[0], noted[-1]), kept):
                if day_of(item.start) in noted:
                    covers |= item.covers
                    found.setdefault(day_of(item.start), Rollup()).merge(item.rollups[WHOLE])
        for hour, view in self.rollups.views(project, *hours, deltas, excerpt).items():
            live = view.total(covers.get(hour, NOTHING_COVERED))
            if live:
                found.setdefault(day_of(hour), Rollup()).merge(_content(live, event_type, facet))
        return dict(sorted(found.items()))

    def facets(self, project: str, wanted: Iterable[Facet], hours: Collection[str]) -> "Facets":
        """Many facets of some hours that follow one another, at the price of one look at what is live."""
        asked = list(wanted)
        deltas = self.rollups.read_deltas(project, min(hours), max(hours))
        starts = {HOUR: hours, DAY: {day_of(hour) for hour in hours}}
        names = [
            (event_type, facet, grain, start)
            for event_type, facet in asked
            for grain in [DAY if facet == COUNTS else HOUR]
            for start in starts[grain]
        ]
        contents: dict[Facet, dict[str, Rollup]] = {facet: {} for facet in asked}
        covers: dict[tuple[Facet, str], Cover] = {}
        for (event_type, facet, grain, start), closed in self.closed.get_many(project, names):
            of_hours = closed.rollups if grain == DAY else {start: closed.rollups[WHOLE]}
            for hour, cover in closed.covers.items():
                if hour in hours:
                    covers[(event_type, facet), hour] = cover
                    contents[event_type, facet][hour] = of_hours[hour]
        uncovered: set[str] = set()
        for hour, view in self.rollups.views(project, min(hours), max(hours), deltas).items():
            later: dict[Cover, Rollups] = {}
            for event_type, facet in asked if hour in hours else ():
                cover = covers.get(((event_type, facet), hour), NOTHING_COVERED)
                if cover not in later:
                    later[cover] = view.total(cover)
                if later[cover] if event_type == ALL_TYPES else event_type in later[cover]:
                    live = _content(later[cover], None if event_type == ALL_TYPES else event_type, facet)
                    if not is_empty(live):  # of a closed hour, a facet with nothing in it is no item
                        contents[event_type, facet].setdefault(hour, Rollup()).merge(live)
                        uncovered.add(hour)
        return Facets(contents, covers, frozenset(uncovered))

    def by_type(
        self,
        project: str,
        first: str,
        last: str,
        exact: Collection[str] = (),
        late: Mapping[str, Collection[str]] = MappingProxyType({}),
        event_types: Collection[str] | None = None,
    ) -> list[HourView]:
        """Return the hours from `first` to `last`, both included, with the counts of each type, and by what they come.

        The closed items, of `event_types` if given, and the merged ones that they do not cover are summed up in the
        first of `merged`. The hours of `exact` are read up to the last delta, and so are others where the index does
        not show the deltas of `late` yet, which are frame ids with their digests.
        """
        counts = needed(None, COUNTS)
        deltas = self.rollups.read_deltas(project, first, last, exact, counts)
        views = self.rollups.views(project, first, last, deltas, counts) if late else {}
        if behind := {hour for hour in _behind(views, late) if first <= hour <= last and hour not in exact}:
            deltas = self.rollups.read_deltas(project, first, last, [*exact, *sorted(behind)], counts)
        totals: dict[str, Rollups] = defaultdict(Rollups)
        covers: dict[tuple[str, str], Cover] = {}
        days = sorted({day_of(hour) for hour in hours_between(hour_start_ms(first), hour_start_ms(last) + 1)})
        types = [OTHER, *(self.rollups.event_types(project) if event_types is None else event_types)]
        for event_type, day in self.closed.get_days(project, types, days):
            for hour, content in day.rollups.items():
                if first <= hour <= last:
                    totals[hour][event_type] = content
                    covers[hour, event_type] = day.covers[hour]
        views = self.rollups.views(project, first, last, deltas, counts)
        for hour, view in views.items():
            for item in view.merged:
                for event_type, rollup in item.rollups.items():
                    if not covers.get((hour, event_type), NOTHING_COVERED).hides(item.epoch, item.slot):
                        totals[hour].setdefault(event_type, Rollup()).merge(content_of(rollup, COUNTS))
        found = []
        for hour in sorted({*totals, *views}):
            view = views.get(hour, HourView(hour))
            total = Merged("", hour, 0, 0, "", 0, NOTHING, totals[hour])
            open_deltas = [replace(delta, excerpt=counts) for delta in view.deltas]
            found.append(HourView(hour, open_deltas, [total, *(replace(m, rollups=Rollups()) for m in view.merged)]))
        return found

    def ledger(self, project: str, hour: str) -> Ledger:
        """Return what the pipeline says became of what was received in the hour."""
        deltas = self.rollups.read_deltas(project, hour, hour)
        ledger, cover = self.closed.ledger(project, hour)
        view = self.rollups.views(project, hour, hour, deltas).get(hour, HourView(hour))
        ledger.merge(view.total(cover).ledger)
        return ledger


def _behind(views: Mapping[str, HourView], late: Mapping[str, Collection[str]]) -> set[str]:
    """The hours of deltas that are neither seen as they were noted, nor absorbed."""
    seen = {
        delta.frame_id: {delta.digest} for view in views.values() for delta in view.deltas if delta.frame_id in late
    }
    absorbed = {frame_id(view.hour, name) for view in views.values() for item in view.merged for name in item.absorbed}
    return {split_frame_id(n)[0] for n, digests in late.items() if n not in absorbed and seen.get(n) != {*digests}}


def _kept(name: str, facet: str, totals: bool) -> Excerpt | None:
    """Return what to read of a facet's closed items, whose rollups have the names of hours, or WHOLE, not of types."""
    return replace(needed(name, facet, totals=True), event_type=None) if totals else None


def by_day(hours: dict[str, Rollup]) -> dict[str, Rollup]:
    """Hours as the UTC days they lie in."""
    days: dict[str, Rollup] = {}
    for hour, content in hours.items():
        days.setdefault(day_of(hour), Rollup()).merge(content)
    return days


def total_of(items: Iterable[Closed]) -> Rollup:
    """Return the sum of items of one rollup each."""
    total = Rollup()
    for item in items:
        total.merge(item.rollups[WHOLE])
    return total


def _content(rollups: Rollups, event_type: str | None, facet: str) -> Rollup:
    if event_type is None:
        return content_of(all_types(rollups), facet)
    return content_of(rollups[event_type], facet) if event_type in rollups else Rollup()
