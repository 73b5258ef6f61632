"""What the stack counts, asked over HTTP, and the comparison with what was sent."""

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from demo.client import Client, DemoError

EVERYTHING = "events"  # the metric of every event type together
STEADY_SECONDS = 3.0  # a count that is right has to stay right so long
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One event type of the comparison. `known` events had been counted before the run began."""

    event_type: str
    sent: int
    known: int
    counted: int

    @property
    def difference(self) -> int:
        """What is counted too much (positive) or too little."""
        return self.counted - (self.sent - self.known)


class Counts:
    """Reads counts of one range; `wait` pauses between two looks."""

    def __init__(
        self,
        client: Client,
        key: str,
        start: str,
        end: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.client, self.key, self.start, self.end = client, key, start, end
        self.clock, self.wait = clock, wait

    def of(self, metric: str) -> int:
        """Return the count of a metric in the range; 0 when the project has never seen it."""
        query = {"metric": metric, "start": self.start, "end": self.end, "interval": "day"}
        status, answer = self._ask("GET", f"/analytics?{urlencode(query)}")
        if status == 404 and answer.get("code") == "unknown_metric":
            return 0
        if status != 200 or not isinstance(answer.get("total"), int):
            raise DemoError(f"GET /analytics answers {status}: {answer.get('message', answer)}")
        return int(answer["total"])

    def by_type(self, event_types: Iterable[str]) -> Counter[str]:
        """The counts of several event types."""
        return Counter({event_type: self.of(event_type) for event_type in event_types})

    def steady(self, *, patience_seconds: float = 20) -> None:
        """Return once events of an earlier run have come through: two looks in a row give the same."""
        give_up_at = self.clock() + patience_seconds
        last = self.of(EVERYTHING)
        while self.clock() < give_up_at:
            self.wait(POLL_SECONDS)
            now = self.of(EVERYTHING)
            if now == last:
                return
            last = now

    def known(self, id_prefix: str, *, patience_seconds: float = 60) -> Counter[str]:
        """Return how many events of each type the lake holds whose ids begin so; asked until two answers agree."""
        give_up_at = self.clock() + patience_seconds
        last = self._in_lake(id_prefix)
        while self.clock() < give_up_at:
            self.wait(STEADY_SECONDS)
            now = self._in_lake(id_prefix)
            if now == last:
                return now
            last = now
        raise DemoError(f"the lake still changes after {patience_seconds:g} s; try again when the traffic is over")

    def agreed(
        self, sent: Mapping[str, int], known: Mapping[str, int], before: Mapping[str, int], *, patience_seconds: float
    ) -> list[Row]:
        """Return the comparison, as soon as it is right and stays right, or else as it is when the patience is over."""
        give_up_at = self.clock() + patience_seconds
        right_since: float | None = None
        while True:
            after = self.by_type(sent)
            rows = [Row(kind, sent[kind], known.get(kind, 0), after[kind] - before[kind]) for kind in sorted(sent)]
            now = self.clock()
            if any(row.difference for row in rows):
                right_since = None
            elif right_since is None:
                right_since = now
            elif now - right_since >= STEADY_SECONDS:
                return rows
            if now >= give_up_at and right_since is None:
                return rows
            self.wait(POLL_SECONDS)

    def _in_lake(self, id_prefix: str) -> Counter[str]:
        sql = (
            "SELECT event_type, count(DISTINCT event_id) AS events FROM events "
            f"WHERE event_id LIKE '{id_prefix}%' GROUP BY event_type"
        )
        status, answer = self._ask("POST", "/query", json.dumps({"sql": sql}).encode())
        while status == 202:
            self.wait(POLL_SECONDS)
            status, answer = self._ask("GET", f"/query/{answer['id']}")
        if status != 200 or "rows" not in answer:
            reason = f"POST /query answers {status}: {answer.get('message', answer)}"
            raise DemoError(f"cannot tell which events of this run are known already; {reason}")
        return Counter({event_type: int(events) for event_type, events in answer["rows"]})

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        try:
            answer = self.client.request(method, path, key=self.key, body=body)
        except (OSError, http.client.HTTPException):
            answer = self._ask_again(method, path, body)
        try:
            document = json.loads(answer.body)
        except ValueError:
            document = {"message": answer.body[:200].decode(errors="replace")}
        if answer.status in (401, 403):
            raise DemoError(
                f"the stack refuses the read key ({answer.status}: {document.get('message')}); "
                "name a key with the scope read: --read-key"
            )
        return answer.status, document if isinstance(document, dict) else {"message": repr(document)}

    def _ask_again(self, method: str, path: str, body: bytes | None) -> Any:
        """Once more on a new connection: the server may have closed an idle one."""
        try:
            return self.client.request(method, path, key=self.key, body=body)
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"the stack no longer answers: {error!r}") from error


def table(rows: Iterable[Row]) -> str:
    """Return the comparison as text, the sum last; with a column of what was known before only where something was."""
    shown = list(rows)
    total = Row("total", *(sum(getattr(row, name) for row in shown) for name in ("sent", "known", "counted")))
    some_known = total.known > 0
    heads = ["type", "sent", *(["known before"] if some_known else []), "counted", "difference"]
    lines = [heads]
    for row in [*shown, total]:
        known = [f"{row.known}"] if some_known else []
        lines.append(
            [row.event_type, f"{row.sent}", *known, f"{row.counted}", f"{row.difference:+d}" if row.difference else "0"]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]

    def text(line: list[str]) -> str:
        return "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])

    rule = "-" * len(text(heads))
    return "\n".join([text(heads), rule, *(text(line) for line in lines[1:-1]), rule, text(lines[-1])])
