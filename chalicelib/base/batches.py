"""Any number of items written to a table, 25 a call; one that the table does not take costs no other its place."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.base.dynamo import Action, Table
from chalicelib.base.retries import THROTTLED, Retries, code_of

MAX_BATCH_ITEMS = 25  # BatchWriteItem limit
PAUSED_SECONDS = 5.0  # in all of a write, however many items are throttled: others wait for it, and a minute is short
MAX_FAILURES = 2  # of calls, which take up to 21 s each while nothing answers; then the rest is not tried

Key = tuple[str, str]

_REQUESTS = {"Put": "PutRequest", "Delete": "DeleteRequest"}
_KINDS = {request: kind for kind, request in _REQUESTS.items()}


@dataclass(slots=True)
class Unwritten:
    """The writes that a table did not take, by their place among all, and why."""

    refused: dict[int, str] = field(default_factory=dict)  # now: they are to be made again
    invalid: dict[int, str] = field(default_factory=dict)  # for good: no item may be like that
    paused_seconds: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class BatchWriter:
    """Writes to one table."""

    table: Table

    def write(self, actions: Sequence[Action], goes_on: Callable[[], bool] = lambda: True) -> Unwritten:
        """Put and delete items, and again those that the table throttles; returns those that it did not take.

        Of those with one key the last one counts. `goes_on` is asked before each call whether there is time for it.
        """
        rounds: list[list[int]] = []
        times: dict[Key, int] = defaultdict(int)
        for number, action in enumerate(actions):
            # One call may not name a key twice.
            key = _key_of(action)
            place = times[key]
            if place == len(rounds):
                rounds.append([])
            rounds[place].append(number)
            times[key] = place + 1
        unwritten = Unwritten()
        for numbers in rounds:
            for start in range(0, len(numbers), MAX_BATCH_ITEMS):
                some = {number: actions[number] for number in numbers[start : start + MAX_BATCH_ITEMS]}
                if unwritten.failures == MAX_FAILURES:
                    unwritten.refused |= dict.fromkeys(some, "the table does not answer")
                elif not goes_on():
                    unwritten.refused |= dict.fromkeys(some, "there is no time left")
                else:
                    self._write_some(some, unwritten)
        return unwritten

    def _write_some(self, actions: dict[int, Action], unwritten: Unwritten) -> None:
        """Make the writes of one call; what remains is noted."""

        rule = self.table.retries

        def pause(seconds: float) -> None:
            unwritten.paused_seconds += seconds
            rule.sleep(seconds)

        for tries_left in Retries(rule.most, pause, rule.chance).tries():
            try:
                undone = self._write_once(actions.values())
                if not undone:
                    return
                actions = {number: action for number, action in actions.items() if _key_of(action) in undone}
                reason = "the table throttles them"
            except (BotoCoreError, ClientError) as error:
                reason, code = str(error), code_of(error)
                if code == "ValidationException":
                    self._write_halves(actions, unwritten, reason)
                    return
                if code not in THROTTLED:
                    unwritten.failures += 1
                    unwritten.refused |= dict.fromkeys(actions, reason)
                    return
            if not tries_left or unwritten.paused_seconds >= PAUSED_SECONDS:
                unwritten.refused |= dict.fromkeys(actions, reason)
                return

    def _write_once(self, actions: Iterable[Action]) -> set[Key]:
        """Return the keys of the writes that the table left undone."""
        name = self.table.name
        requests = [{_REQUESTS[action.kind]: action.request} for action in actions]
        answer = self.table.client.batch_write_item(RequestItems={name: requests})
        undone = answer.get("UnprocessedItems", {}).get(name, [])
        return {_key_of(Action(_KINDS[name], request)) for each in undone for name, request in each.items()}

    def _write_halves(self, actions: dict[int, Action], unwritten: Unwritten, reason: str) -> None:
        """Make each half of a call's writes of which one is invalid, until that one stands alone."""
        if len(actions) == 1:
            unwritten.invalid |= dict.fromkeys(actions, reason)
            return
        numbers = list(actions)
        for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
            if unwritten.failures == MAX_FAILURES:
                unwritten.refused |= dict.fromkeys(half, "the table does not answer")
            else:
                self._write_some({number: actions[number] for number in half}, unwritten)


def _key_of(action: Action) -> Key:
    """Return the key that a put or a deletion is about."""
    attributes = action.request["Item" if action.kind == "Put" else "Key"]
    return attributes["pk"]["S"], attributes["sk"]["S"]
