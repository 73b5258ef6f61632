"""The control table's imports: `imports#<project>` / `<import id>`, of which the last began last.

state     domain/imports.STATES
rows      in the file, once they are counted
parts     {number: [rows, accepted, rejected]} as `transform` has judged them
ranges    {number: [new, known]} as `store` has put them into the lake; `planned`: how many there are
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from chalicelib.base.dynamo import NEW, THERE, Item, Table, key, put, update
from chalicelib.base.time_windows import iso_ms, parse_ms
from chalicelib.imports.imports import STATES, Import

KEPT_SECONDS = 400 * 86_400
FIRST = "~"  # sorts after every id


@dataclass(frozen=True, slots=True)
class ImportsTable:
    """Every call is one request and right when repeated."""

    client: Any
    name: str

    def begin(self, one: Import) -> None:
        """Show the import, unless it is shown already."""
        item = {
            **_key(one.project, one.id),
            "state": "validating",
            "file": one.file,
            "started_ms": one.started_ms,
            "parts": {},
            "ranges": {},
            "expires_at": one.started_ms // 1000 + KEPT_SECONDS,
        }
        self._table.write(put(item, NEW))

    def advance(self, one: Import, state: str, **numbers: int) -> None:
        """The import has come to a state, with what is known of it by now; of one that is further a late call changes
        nothing.
        """
        sets = ", ".join(["#state = :state", *(f"#{name} = :{name}" for name in numbers)])
        before = {f"state{n}": each for n, each in enumerate(STATES[: STATES.index(state) + 1])}
        is_before = f"#state IN ({', '.join(f':{name}' for name in before)})"
        values = {"state": state, **numbers, **before}
        self._table.write(update(_key(one.project, one.id), f"SET {sets}", values, is_before))

    def count(self, one: Import, kind: str, number: int, *counts: int) -> None:
        """What a part or a range came to; `kind` is parts or ranges."""
        self._table.write(update(_key(one.project, one.id), f"SET #{kind}.#{number} = :counts", {"counts": counts}))

    def end(self, one: Import, state: str, ended_ms: int, outcome: Mapping[str, Any]) -> bool:
        """The import is over; False when it is done already, which nothing changes."""
        sets = "SET #state = :state, ended_ms = if_not_exists(ended_ms, :now), report = :report"
        values = {"state": state, "done": "done", "now": ended_ms, "report": orjson.dumps(outcome)}
        return self._table.write(update(_key(one.project, one.id), sets, values, f"{THERE} AND #state <> :done"))

    def get(self, project: str, import_id: str) -> dict[str, Any] | None:
        """One import as it is shown."""
        item = self._table.get(_key(project, import_id))
        return _shown(item) if item else None

    def latest(self, project: str, before: str | None) -> Iterator[dict[str, Any]]:
        """Return those with ids before the one that is named, the latest first."""
        items = self._table.query(f"imports#{project}", "sk < :before", {"before": before or FIRST}, backwards=True)
        return map(_shown, items)

    def going_on(self, project: str, ended_after_ms: int) -> list[int]:
        """Return when the imports began that are not over, or were not then, in Unix milliseconds."""
        return [
            parse_ms(one["started_at"])
            for one in self.latest(project, None)
            if one["ended_at"] is None or parse_ms(one["ended_at"]) > ended_after_ms
        ]

    def page(self, project: str, limit: int, before: str | None) -> dict[str, Any]:
        """Return a page of the project's imports, the latest first; `next` is the `before` of the page after it."""
        found = list(islice(self.latest(project, before), limit + 1))
        return {"imports": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None}

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _key(project: str, import_id: str) -> Item:
    return key(f"imports#{project}", import_id)


def _shown(item: Item) -> dict[str, Any]:
    def total(kind: str, place: int) -> int:
        return sum(counts[place] for counts in item[kind].values())

    outcome = orjson.loads(item["report"]) if "report" in item else {}
    ended_ms = item.get("ended_ms")
    return {
        "id": item["sk"],
        "file": item["file"],
        "state": item["state"],
        "rows": item.get("rows"),
        "accepted": total("parts", 1),
        "rejected": total("parts", 2),
        "stored": total("ranges", 0),
        "duplicates": total("ranges", 1),
        "progress": _progress(item),
        "reasons": outcome.get("reasons", {}),
        "error": outcome.get("error"),
        "started_at": iso_ms(item["started_ms"]),
        "ended_at": None if ended_ms is None else iso_ms(ended_ms),
    }


def _progress(item: Item) -> float:
    """Return how much is done, from 0 to 1: rows are judged in the first third, stored in the rest."""
    if item["state"] == "done":
        return 1.0
    rows, planned = item.get("rows", 0), item.get("planned", 0)
    judged = sum(counts[0] for counts in item["parts"].values())
    share = judged / rows / 3 if rows else 0.0
    return round(share + (len(item["ranges"]) / planned * 2 / 3 if planned else 0.0), 3)
