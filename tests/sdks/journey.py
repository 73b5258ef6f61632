"""The same calls through every SDK, and what must be found of each afterwards."""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.end_to_end.client import Api, eventually

TYPES = {"page": "page_view", "screen": "screen_view"}


@dataclass(frozen=True)
class Call:
    """One call of an SDK in Segment's words; `message` has a time and all that the call takes."""

    kind: str
    message: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """What must be stored of it."""
        said = self.message
        named = {name: said[name] for name in ("name", "category") if name in said}
        extra = {"group_id": said.get("groupId"), "previous_id": said.get("previousId")}
        properties = {
            **named,
            **{k: v for k, v in extra.items() if v},
            **said.get("properties", said.get("traits", {})),
        }
        return {
            "event_type": TYPES.get(self.kind, said.get("event", self.kind).lower().replace(" ", "_")),
            "user_id": said.get("userId"),
            "anonymous_id": said.get("anonymousId"),
            "time": datetime.fromisoformat(said["timestamp"]),
            "properties": properties,
        }


@dataclass(frozen=True)
class Journey:
    """Some users' calls, found again by ids that no other journey has."""

    marker: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    start: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    tracks: int = 244
    one_user: bool = False  # as in a browser: each call is of the same user and visitor
    without: tuple[str, ...] = ()  # calls that the SDK does not have

    @property
    def user(self) -> str:
        return f"user-{self.marker}"

    @property
    def event(self) -> str:
        return f"Order {self.marker}"

    @property
    def event_type(self) -> str:
        return f"order_{self.marker}"

    def calls(self) -> list[Call]:
        """Each kind of call once, then many of the most frequent one."""
        user, visitor = self.user, f"visitor-{self.marker}"
        page = {"path": "/préis", "title": "", "load": {"ms": [1, 2.5, None]}}
        order = {
            "revenue": 9.5,
            "items": [{"sku": "a/1", "n": 2}],
            "note": "«ünïcode» ✓ \u2028 \U0001f30a",
            "gift": False,
        }
        first: list[tuple[str, dict[str, Any]]] = [
            ("identify", {"userId": user, "anonymousId": visitor, "traits": {"plan": "free", "seats": 3}}),
            ("group", {"userId": user, "groupId": f"team-{self.marker}", "traits": {"employees": 7}}),
            ("alias", {"userId": user, "previousId": visitor}),
            ("page", {"userId": user, "name": "Prices", "category": "Docs", "properties": page}),
            ("screen", {"userId": user, "name": "Cart", "properties": {"items": 0}}),
            ("track", {"userId": user, "anonymousId": visitor, "event": self.event, "properties": order}),
        ]
        many = [
            ("track", {"userId": f"{user}-{n % 7}", "event": self.event, "properties": {"n": n}})
            for n in range(self.tracks)
        ]
        always = {"userId": user, "anonymousId": visitor} if self.one_user else {}
        made = [(kind, message) for kind, message in [*first, *many] if kind not in self.without]
        return [Call(kind, {**message, **always, "timestamp": self._time(n)}) for n, (kind, message) in enumerate(made)]

    def _time(self, n: int) -> str:
        return (self.start - timedelta(seconds=60) + timedelta(milliseconds=100 * n)).isoformat(timespec="milliseconds")

    def stored(self, api: Api) -> list[dict[str, Any]]:
        """The lake's rows of the journey's users, in order of the clients' time."""
        rows = api.sql(
            "SELECT event_id, event_type, user_id, anonymous_id, client_timestamp, properties, context FROM events "
            f"WHERE user_id LIKE 'user-{self.marker}%' ORDER BY client_timestamp"
        )
        return [
            {
                "event_id": event_id,
                "event_type": event_type,
                "user_id": user_id,
                "anonymous_id": anonymous_id,
                "time": datetime.fromisoformat(time),
                "properties": json.loads(properties or "{}"),
                "context": json.loads(context or "{}"),
            }
            for event_id, event_type, user_id, anonymous_id, time, properties, context in rows
        ]

    def check(self, api: Api, *, library: str, adds: frozenset[str] = frozenset()) -> None:
        """Each call arrives once, live and in the lake, with every field as it was called.

        `adds` names properties that the SDK gives an event by itself.
        """
        calls = self.calls()
        eventually(lambda: api.total(self.event_type), self.tracks + 1, seconds=30)
        eventually(lambda: len(self.stored(api)), len(calls), seconds=30)
        rows = self.stored(api)
        for row, call in zip(rows, calls, strict=True):
            expected = call.row
            found = {name: row[name] for name in expected}
            for name in adds - expected["properties"].keys():
                found["properties"].pop(name, None)
            assert found == expected, f"\n{found} is stored of\n{expected}"
            assert row["context"]["library"]["name"] == library, row["context"]
        assert len({row["event_id"] for row in rows}) == len(calls)
        assert api.total(self.event_type) == self.tracks + 1
