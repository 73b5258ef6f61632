"""Virtual time and the actors in it: who goes on next, and when.

An actor is a greenlet. It runs until it pauses, which it does before and after each call of a service; then whoever is
due next goes on. One that is killed ends at its pause, and nothing that it does on its way out has an effect.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """The process of an actor is gone; nothing catches this but what catches everything."""


class Actor(greenlet):  # type: ignore[misc]
    """Work in progress, in a container where it is a handler's; `ended` gets what it returned, or its error."""

    def __init__(
        self,
        scheduler: "Scheduler",
        name: str,
        work: Callable[[], Any],
        ended: Callable[[Any, BaseException | None], None],
        *,
        container: Any = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(self._work, scheduler.hub)
        self.scheduler, self.name, self.work, self.ended = scheduler, name, work, ended
        self.container, self.deadline = container, deadline
        self.killed = False

    def _work(self) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = self.work()
        except Killed as killed:
            error = killed
        except Exception as failure:  # noqa: BLE001 - of a handler: whoever invoked it hears of it
            error = failure
        self.scheduler.actors.discard(self)
        self.ended(result, error)


class Scheduler:
    """What happens at which time, in the order of time, and at one time in the order in which it was planned."""

    def __init__(self, start: float, app: Any) -> None:
        self.now = start
        self.app = app
        self.hub = getcurrent()
        self.actors: set[Actor] = set()
        self.steps = 0
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._limit = start

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Plan something; what is overdue happens now."""
        heappush(self._plans, (max(when, self.now), next(self._numbers), what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Plan something that many seconds from now."""
        self.at(self.now + seconds, what)

    def start(self, actor: Actor) -> Actor:
        """Have an actor begin as soon as whoever runs now pauses."""
        self.actors.add(actor)
        self.at(self.now, actor.switch)
        return actor

    def pause(self, seconds: float) -> None:
        """Let others go on for so long; raises Killed at the deadline of the actor that pauses."""
        actor = getcurrent()
        if not isinstance(actor, Actor):
            return  # whoever looks from outside takes no time
        if actor.killed:
            raise Killed
        until = self.now + seconds
        deadline = actor.deadline
        is_over = deadline is not None and until > deadline
        if not is_over and until <= self._limit and (not self._plans or self._plans[0][0] > until):
            self.now = until  # nobody else is due meanwhile
            return
        if deadline is not None and is_over:
            self.at(deadline, actor.switch)
            self._leave()
            actor.killed = True
            raise Killed("out of time")
        self.at(until, actor.switch)
        self._leave()
        if actor.killed:
            raise Killed

    def wait(self) -> None:
        """Let others go on until somebody has planned to switch back to this actor."""
        self._leave()
        actor = current()
        if actor is not None and actor.killed:
            raise Killed

    def end(self) -> None:
        """Kill whoever is left."""
        for actor in sorted(self.actors, key=lambda actor: actor.name):
            actor.killed = True
            if actor:  # that has begun
                actor.throw(Killed)

    def _leave(self) -> None:
        request = self.app.current_request  # of the process, which on Lambda is the container's own
        self.hub.switch()
        self.app.current_request = request

    def run(self, until: float) -> None:
        """Let everything happen that is planned before then."""
        plans, self._limit = self._plans, until
        while plans and plans[0][0] <= until:
            self.now, _, what = heappop(plans)
            self.steps += 1
            what()
        self.now = max(self.now, until)

    def next_at(self) -> float | None:
        """When the next thing happens."""
        return self._plans[0][0] if self._plans else None


def current() -> Actor | None:
    """The actor that runs now; None where somebody looks from outside."""
    found = getcurrent()
    return found if isinstance(found, Actor) else None
