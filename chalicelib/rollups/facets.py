"""Facets: what one question needs of a rollup, kept as items of their own so that long ranges stay cheap.

A facet is an aspect of a whole event type or of the values of one dimension:

n             how many, when, and sums and extremes of the measures      n|<dimension>
u             distinct users                                            u|<dimension>
q:<measure>   the quantile buckets of a measure                         q:<measure>|<dimension>

A facet's content is a rollup of which the rest is empty, so it merges and is encoded like any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chalicelib.rollups.rollups import Cell, Measure, Rollup, Rollups, RollupSpec, Values

COUNTS = "n"
USERS = "u"
ALL_TYPES = "(all)"  # stands for every event type together
SESSIONS = "(sessions)"  # stands for the sessions that began, as if each were an event of its first moment
DERIVED = {
    ALL_TYPES: RollupSpec(dimensions=("event_type",)),
    SESSIONS: RollupSpec(("entry_page", "exit_page"), ("duration_seconds", "pages", "bounced")),
}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What of rollups a facet needs: of one type, or None for all; the aspect; of which dimension's values.

    `totals`, of facets of counts: no more than how many, neither when nor what they measured.
    """

    event_type: str | None
    aspect: str
    dimension: str | None = None
    totals: bool = False


OVERVIEW = Excerpt(None, "overview")  # every type and the ledger, but of the values of dimensions only how many


def quantiles_of(measure: str) -> str:
    """The aspect that holds a measure's quantiles."""
    return f"q:{measure}"


def facet_of(aspect: str, dimension: str | None) -> str:
    """Return the facet's name."""
    return f"{aspect}|{dimension}" if dimension else aspect


def facets_of(spec: RollupSpec) -> Iterator[str]:
    """Yield every facet that events of a type can have."""
    for aspect in (COUNTS, USERS, *map(quantiles_of, spec.measures)):
        for dimension in (None, *spec.dimensions):
            yield facet_of(aspect, dimension)


def content_of(rollup: Rollup, facet: str) -> Rollup:
    """Return what the facet holds of the rollup; the two share what they hold, so it must not be changed."""
    aspect, _, dimension = facet.partition("|")
    cut = _aspect(aspect)
    if dimension:
        values = rollup.dimensions.get(dimension, Values())
        cells = {value: cut(cell) for value, cell in values.items()}
        return Rollup(dimensions={dimension: Values(cells, values.missed)} if cells else {})
    content = cut(rollup)
    minutes = rollup.minutes if aspect == COUNTS else {}
    return Rollup(content.count, content.users, content.measures, minutes)


def needed(event_type: str | None, facet: str, *, totals: bool = False) -> Excerpt:
    """Return what of rollups `content_of` reads for the facet, of a type or, for None, of `all_types`."""
    aspect, _, dimension = facet.partition("|")
    return Excerpt(event_type, aspect, None if event_type is None else dimension or None, totals)


def is_empty(content: Rollup) -> bool:
    """Return whether there is nothing to keep."""
    return not (content.count or content.measures or content.dimensions or content.users.estimate())


def all_types(rollups: Rollups) -> Rollup:
    """Return every event type together, with the type as its dimension."""
    total = Rollup()
    for rollup in rollups.values():
        total.merge(Rollup(rollup.count, rollup.users, {}, rollup.minutes))
    types = {name: Cell(rollup.count, rollup.users, cleared=rollup.cleared) for name, rollup in rollups.items()}
    total.dimensions["event_type"] = Values(types, rollups.missed)
    return total


def _aspect(aspect: str) -> Callable[[Cell], Cell]:
    if aspect == COUNTS:
        return lambda cell: Cell(
            cell.count, measures={k: _without_buckets(m) for k, m in cell.measures.items()}, cleared=cell.cleared
        )
    if aspect == USERS:
        return lambda cell: Cell(users=cell.users, cleared=cell.cleared)
    measure = aspect.removeprefix("q:")
    return lambda cell: Cell(
        measures={measure: cell.measures[measure]} if measure in cell.measures else {}, cleared=cell.cleared
    )


def _without_buckets(measure: Measure) -> Measure:
    return Measure(measure.count, measure.total, measure.low, measure.high)
