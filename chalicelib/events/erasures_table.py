"""Erasures in the control table: `erasures#<project>` / `<id>`, kept as receipts, and `erasures` / `<project>#<hash>`,
of the user, which there is once, until it is done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from chalicelib.base import waits
from chalicelib.base.dynamo import NEW, NOTHING, THERE, Item, Table, delete, key, put, update
from chalicelib.events.erasure import Erasure, State

OPEN = "erasures"
LAST = "~"  # sorts after every id
UNDONE = f"{THERE} AND #state <> :done"


@dataclass(frozen=True, slots=True)
class ErasuresTable:
    """Every call is right when repeated; times are Unix milliseconds."""

    client: Any
    name: str

    def request(self, erasure: Erasure) -> bool:
        """Keep a new one, and that it is open, together; False, and nothing is written, while the user has another."""
        item = {
            **_key(erasure),
            "state": erasure.state.value,
            "requested_ms": erasure.requested_ms,
            "digest": erasure.digest,
            "user": str(erasure.user),
            "ids": erasure.ids,
            "removed": {},
        }
        place = {**_open_key(erasure), "id": erasure.id}
        return self._table.write_together(put(item, NEW), put(place, NEW))

    def open(self) -> list[Erasure]:
        """Return those of all projects that are not done, the oldest first."""
        found = map(self._at, self._table.query(OPEN))
        return sorted((one for one in found if one is not None), key=lambda one: (one.requested_ms, one.id))

    def open_of_project(self, project: str) -> list[Erasure]:
        """Return those of the project that are not done."""
        return [one for one in self.open() if one.project == project]

    def open_of(self, project: str, digest: str) -> Erasure | None:
        """Return the one of the user of that hash that is not done, if there is any."""
        item = self._table.get(key(OPEN, f"{project}#{digest}"))
        return self._at(item) if item else None

    def _at(self, place: Item) -> Erasure | None:
        return self.get(place["sk"].rpartition("#")[0], place["id"])

    def get(self, project: str, erasure_id: str) -> Erasure | None:
        """Return one of the project, or None."""
        item = self._table.get(key(f"erasures#{project}", erasure_id))
        return None if item is None else _erasure(item)

    def page(self, project: str, limit: int, before: str | None) -> dict[str, Any]:
        """Return a page of receipts, the latest first; `next` is the `before` of the page after it."""
        items = self._table.query(f"erasures#{project}", "sk < :before", {"before": before or LAST}, backwards=True)
        found = list(islice(map(_erasure, items), limit + 1))
        shown = [one.shown() for one in found[:limit]]
        return {"erasures": shown, "next": found[limit - 1].id if len(found) > limit else None}

    def take(self, erasure: Erasure, now_ms: int) -> bool:
        """Take it for this run; False while another one has it."""
        return self._update(
            erasure,
            "SET leased_ms = :until",
            {"until": now_ms + waits.ERASER_TURN_MS, "now": now_ms},
            "attribute_not_exists(leased_ms) OR leased_ms <= :now",
        )

    def release(self, erasure: Erasure) -> None:
        """Give it back."""
        self._update(erasure, "REMOVE leased_ms")

    def begin(self, erasure: Erasure, ids: Iterable[str], marked_ms: int, until_ms: int) -> None:
        """Whose events are removed is known so far, and their markers are there."""
        values = {"ids": [*ids], "marked": marked_ms, "until": until_ms, "state": State.REMOVING.value}
        self._update(erasure, "SET #state = :state, ids = :ids, marked_ms = :marked, until_ms = :until", values)

    def removed(self, erasure: Erasure, place: str, count: int) -> None:
        """Some more was removed at a place; of a run that dies right before, the receipt says too little."""
        if count:
            sets = f"SET #removed.#{place} = if_not_exists(#removed.#{place}, :none) + :count"
            self._update(erasure, sets, {"count": count, "none": 0})

    def files_done(self, erasure: Erasure) -> None:
        """All but the lake is done."""
        self._update(erasure, "SET files_done = :yes", {"yes": True})

    def found_on(self, erasure: Erasure, day: str) -> None:
        """The lake has something on the day, which is to be looked at again."""
        self._update(erasure, "ADD days :day", {"day": {day}})

    def swept_before(self, erasure: Erasure, day: str) -> None:
        """The days of the lake before this one were looked through."""
        self._update(erasure, "SET next_day = :day", {"day": day})

    def swept(self, erasure: Erasure, now_ms: int) -> None:
        """All days were looked through, or found to need it once more."""
        values = {"now": now_ms, "state": State.WAITING.value}
        self._update(erasure, "SET swept_ms = :now, #state = :state", values)

    def finish(self, erasure: Erasure, now_ms: int) -> None:
        """It is done, and no longer open: from now on nothing here names the user."""
        done = update(
            _key(erasure),
            "SET #state = :done, done_ms = :now REMOVE #user, ids, days, leased_ms",
            {"done": State.DONE.value, "now": now_ms},
            UNDONE,
        )
        # Together: what is done can't be taken any more, so a place that was left open would stay so for ever.
        self._table.write_together(done, delete(_open_key(erasure)))

    def _update(self, erasure: Erasure, change: str, values: Mapping[str, Any] = NOTHING, condition: str = "") -> bool:
        """False, and nothing is changed, where the condition does not hold, or it is done: for a run that is late."""
        condition = f"{UNDONE} AND ({condition})" if condition else UNDONE
        known = {**values, "done": State.DONE.value}
        return self._table.write(update(_key(erasure), change, known, condition))

    @property
    def _table(self) -> Table:
        return Table(self.client, self.name)


def _key(erasure: Erasure) -> Item:
    return key(f"erasures#{erasure.project}", erasure.id)


def _open_key(erasure: Erasure) -> Item:
    return key(OPEN, f"{erasure.project}#{erasure.digest}")


def _erasure(item: Item) -> Erasure:
    return Erasure(
        id=item["sk"],
        project=item["pk"].removeprefix("erasures#"),
        state=State(item["state"]),
        requested_ms=item["requested_ms"],
        digest=item["digest"],
        user=item.get("user"),
        ids=tuple(item.get("ids", ())),
        marked_ms=item.get("marked_ms"),
        until_ms=item.get("until_ms"),
        files_done="files_done" in item,
        next_day=item.get("next_day", ""),
        swept_ms=item.get("swept_ms"),
        days=item.get("days", frozenset()),
        removed=item["removed"],
        done_ms=item.get("done_ms"),
    )
