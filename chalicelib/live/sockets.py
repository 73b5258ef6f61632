"""The management API of the WebSocket gateway: push to connections, side by side and within a time, or end them."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.live.connection import Connection

THREADS = 16  # calls under way at a time


class Gone(Exception):
    """The connection is no longer there."""


class PushFailed(Exception):
    """The gateway did not take the frame, or not in time, and the connection may still be there."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """`client_of` gives the management client of a connection's own endpoint, which has a short time-out.

    With one thread, all is done in the caller's own, in an order that is always the same.
    """

    client_of: Callable[[Connection], Any]
    threads: int = THREADS
    clock: Callable[[], float] = time.monotonic

    def push(self, connection: Connection, frame: bytes) -> None:
        """Send one text frame; raises Gone or PushFailed."""
        try:
            self.client_of(connection).post_to_connection(ConnectionId=connection.id, Data=frame)
        except ClientError as error:
            if error.response["Error"]["Code"] == "GoneException":
                raise Gone(connection.id) from error
            raise PushFailed(str(error)) from error
        except BotoCoreError as error:
            raise PushFailed(str(error)) from error

    def push_all(
        self, shares: Sequence[tuple[Connection, Iterable[bytes]]], seconds: float
    ) -> list[int | Gone | PushFailed]:
        """Send each connection its frames in order; returns how many of each share were sent, or why not all were.

        Takes no longer than `seconds`, whatever hangs: what is not sent by then has failed, and so has the share whose
        call is still under way. Projects take turns, so that none waits for all connections of another.
        """
        deadline = self.clock() + seconds

        def push(number: int) -> int:
            connection, frames = shares[number]
            sent = 0
            for frame in frames:
                if self.clock() >= deadline:
                    raise PushFailed(f"only {sent} frames were sent in time")
                self.push(connection, frame)
                sent += 1
            return sent

        return self._each([connection for connection, _ in shares], push, deadline)

    def each(
        self, connections: Sequence[Connection], work: Callable[[Connection], object], seconds: float
    ) -> list[int | Gone | PushFailed]:
        """Do something else with each connection, side by side as `push_all` does."""

        def do(number: int) -> int:
            work(connections[number])
            return 1

        return self._each(connections, do, self.clock() + seconds)

    def end(self, connection: Connection) -> None:
        """Close the connection, if the gateway lets us; its client comes back and gets a snapshot.

        One that stays open gets neither frames nor pongs once it is forgotten, and is ended with its next message.
        """
        with suppress(ClientError, BotoCoreError):
            self.client_of(connection).delete_connection(ConnectionId=connection.id)

    def _each(
        self, connections: Sequence[Connection], work: Callable[[int], int], deadline: float
    ) -> list[int | Gone | PushFailed]:
        for connection in connections:
            with suppress(Exception):  # what fails here fails again in its turn
                self.client_of(connection)  # which makes it where need be: boto3 can do that in one thread only
        turns = _Turns([connection.project for connection in connections])
        late: int | Gone | PushFailed = PushFailed("its turn did not come, or end, in time")
        outcomes = [late] * len(connections)

        def take_turns() -> None:
            while self.clock() < deadline and (number := turns.take()) is not None:
                outcome: int | Gone | PushFailed
                try:
                    outcome = work(number)
                except (Gone, PushFailed) as error:
                    outcome = error
                except Exception as error:  # noqa: BLE001 - one connection's trouble must not keep others from theirs
                    outcome = PushFailed(repr(error))
                if turns.is_over:
                    return  # whoever waited has been told otherwise
                outcomes[number] = outcome
                turns.done(number)

        if self.threads == 1:
            take_turns()
            return outcomes
        # Daemons, which are left behind when a call hangs: an executor would wait for them.
        threads = [Thread(target=take_turns, daemon=True) for _ in range(min(self.threads, len(connections)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(deadline - self.clock(), 0))
        turns.is_over = True
        return list(outcomes)


class _Turns:
    """Who is next: of the project with the fewest calls under way and, so far, the fewest done."""

    def __init__(self, projects: Sequence[str]) -> None:
        self.projects = projects
        self.waiting: dict[str, deque[int]] = {}
        for number, project in enumerate(projects):
            self.waiting.setdefault(project, deque()).append(number)
        self.under_way: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.lock = Lock()
        self.is_over = False

    def take(self) -> int | None:
        """Return the next one's number; None when there is none left."""
        with self.lock:
            if self.is_over or not self.waiting:
                return None
            project = min(self.waiting, key=lambda name: (self.under_way[name], self.taken[name]))
            number = self.waiting[project].popleft()
            if not self.waiting[project]:
                del self.waiting[project]
            self.under_way[project] += 1
            self.taken[project] += 1
            return number

    def done(self, number: int) -> None:
        """Its call is no longer under way."""
        with self.lock:
            self.under_way[self.projects[number]] -= 1
