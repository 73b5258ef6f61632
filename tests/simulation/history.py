"""One history from its beginning to its rest: what is done from outside, what goes wrong, and what must hold."""

import logging
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any

from tests.simulation import resources
from tests.simulation.containers import Container, Observer, contracts_of
from tests.simulation.dashboards import Dashboard
from tests.simulation.entropy import played
from tests.simulation.faults import LATE_READ
from tests.simulation.limits import small
from tests.simulation.options import Options
from tests.simulation.oracles import Broken, Oracles
from tests.simulation.scheduler import Actor
from tests.simulation.trace import Trace
from tests.simulation.workload import PROJECTS, Erasure, Event, ImportFile, Request, iso, plan
from tests.simulation.world import World

TAKEN = (200, 202)  # of SDKs, and of our own clients
NONE_TAKEN = "nothing_accepted"  # each event of the request is rejected, and kept
BUS_ATTEMPTS = 3
REST_HOURS = 4.0  # after all faults are over everything must have come to rest
DOUBT_HOURS = 30.0  # … or after the streams have forgotten what guarantees except
LOOK_SECONDS = 1800.0
OFTEN = 6  # looks half an hour apart, and then …
LATER = 3 * 3600.0  # … so long
RARELY = 30  # minutes between two firings of what else runs every few
LOOKS = (8 * 60.0, 50 * 60.0)  # within an hour, once nothing goes wrong any more
MOST_GROWN_MB = 96  # of all functions together, at any time: each batch and body is bounded by what it holds as objects
FULL_SQL = 0.003  # of histories write out what they ask Athena, and have it run by an SQL engine


@dataclass
class Outcome:
    """What came of a history; `broken` says what did not hold."""

    options: Options
    broken: str = ""
    reached: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    calls: int = 0
    simulated_seconds: float = 0.0


class Captured(logging.Handler):
    """What the app logs, while a history is played: its metrics, and lines for the trace."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.metrics: dict[str, float] = {}
        self.alarming: set[str] = set()  # metrics that ever were not 0
        self.crashes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.crashes.append(record.getMessage() + (self.format(record) if record.exc_info else ""))
        if "_aws" in record.__dict__:
            named = record.__dict__["_aws"]["CloudWatchMetrics"][0]["Metrics"]
            told = {metric["Name"]: record.__dict__[metric["Name"]] for metric in named}
            self.metrics |= told
            self.alarming |= {name for name, value in told.items() if value}
        elif self.world.trace.out is not None:
            self.world.trace.note(f"log {record.levelname}: {record.getMessage()}", **_extra(record))


class History:
    """Plays a history."""

    def __init__(self, options: Options, app: Any, trace: Trace) -> None:
        self.options = options
        self.reached: Counter[str] = Counter()
        self.world = World(options, app, trace, lambda what: self.reached.update((what,)))
        self.workload = plan(options)
        self.world.truth.know(self.workload.events())
        self.rnd = options.random("history")
        self.dashboards: list[Dashboard] = []
        self.log = Captured(self.world)
        self.oracles = Oracles(self.world, self.dashboards, self.log)

    def play(self) -> Outcome:
        """Until everything has come to rest, or something is broken."""
        outcome = Outcome(self.options, reached=self.reached)
        Observer.container = Container("observer", 0)
        Observer.client = self.world.services.client
        Observer.asks_in_full = self.rnd.random() < FULL_SQL
        Observer.contracts = contracts_of(narrow=self.options.narrow)
        loggers = [logging.getLogger(name) for name in ("tidemark", "chalicelib")]
        for logger in loggers:
            logger.handlers = [self.log]
        began, peak = self.world.scheduler.now, _peak_mb()
        with played(self.world), small(self.options.bounds):
            try:
                self._begin()
                self._live()
                self._rest()
            except Broken as broken:
                outcome.broken = str(broken)
            finally:
                self.world.scheduler.end()
        if self.reached[LATE_READ] and not outcome.broken:
            outcome.broken = f"{LATE_READ} was made: tables are read with ConsistentRead"
        if (grown := _peak_mb() - peak) > MOST_GROWN_MB and not outcome.broken:
            outcome.broken = f"memory grew by {grown} MB; the limit is {MOST_GROWN_MB} MB"
        outcome.steps, outcome.calls = self.world.scheduler.steps, self.world.network.calls
        outcome.simulated_seconds = self.world.scheduler.now - began
        return outcome

    def _begin(self) -> None:
        """Projects with their keys, as operators make them; schedules; and all that is planned."""
        from chalicelib import wiring
        from chalicelib.access.access import ApiKey, Project, Scope
        from chalicelib.access.quotas import Limits
        from chalicelib.events.events import Mode

        now = datetime.fromtimestamp(self.world.scheduler.now, UTC)
        for project in PROJECTS:
            wiring.stores().access.put_project(Project(project, Mode.INFER, b"salt"), Limits(), now)
            for scope in Scope:
                digest = sha256(key_of(project, scope.value).encode()).hexdigest()
                wiring.stores().access.put_key(ApiKey(project, digest, (scope,), scope.value, now))
        for schedule in self.world.schedules:
            schedule.start()
        at = self.world.scheduler.at
        for request in self.workload.requests:
            self._plan(request.at, f"client {request.number}", partial(self._send, request))
        for erasure in self.workload.erasures:
            self._plan(erasure.at, "admin", partial(self._erase, erasure))
        for file in self.workload.imports:
            at(file.at, partial(self._import, file))
        for number in range(self.options.poison):
            at(self.options.started_at + self.rnd.random() * self.options.hours * 3600, partial(self._poison, number))
        for put in self.workload.bus:
            at(put.at, partial(self._put_on_bus, put.event))
        end = self.options.started_at + self.options.hours * 3600
        for number in range(self.options.sockets):
            dashboard = self._dashboard(number)
            self._plan(self.options.started_at + self.rnd.random() * 1800, "dashboard", dashboard.run)
        for number in range(self.options.readers):
            moment = self.options.started_at + self.rnd.random() * (end - self.options.started_at + 3600)
            self._plan(moment, f"reader {number}", partial(self.oracles.read, number))
        if self.world.mix.split and self.rnd.random() < self.world.mix.split:
            at(self.options.started_at + self.rnd.random() * (end - self.options.started_at), self._split)
        if self.world.mix.ttl:
            at(end + self.rnd.random() * 3600 * 40, self._expire)

    def _live(self) -> None:
        end = self.options.started_at + self.options.hours * 3600
        while self.world.scheduler.now < end:
            self.world.scheduler.run(min(end, self.world.scheduler.now + LOOK_SECONDS))
            self.oracles.look()

    def _rest(self) -> None:
        """All faults heal, and everything has to come to rest within a bound."""
        scheduler = self.world.scheduler
        self.world.heal()
        healed = max(scheduler.now, *(trigger.resumes_at for trigger in self.world.streams))
        if healed > scheduler.now + 3600:
            self.world.thin_out(RARELY)
        scheduler.run(healed)
        last_error: Broken | None = None
        for number in count():
            scheduler.run(_next_look(scheduler.now + (LATER if number > OFTEN else 0)))
            if number == OFTEN:
                self.world.thin_out(RARELY)
            self.world.redrive()
            if not self.world.pending():
                try:
                    self.oracles.rest()
                    return
                except Broken as broken:
                    last_error = broken
            hours = (scheduler.now - healed) / 3600
            if hours >= (DOUBT_HOURS if self.world.truth.doubtful or self.world.truth.erased else REST_HOURS):
                raise last_error or Broken(
                    f"no rest after {hours:.0f} hours: {self.world.pending()} things are pending"
                )

    def _plan(self, when: float, name: str, work: Callable[[], None]) -> None:
        self.world.scheduler.at(when, lambda: self._act(name, work))

    def _act(self, name: str, work: Callable[[], None]) -> None:
        def ended(_result: Any, error: BaseException | None) -> None:
            if isinstance(error, Exception):
                raise error

        self.world.scheduler.start(Actor(self.world.scheduler, name, work, ended))

    def _send(self, request: Request) -> None:
        """A client sends until everything is acknowledged, or its patience ends."""
        left, scheduler, rnd = request.events, self.world.scheduler, self.options.random(f"client {request.number}")
        accounts = self.world.truth.accounts
        for attempt in range(request.patience):
            shares = [left]
            if attempt and request.regroups and len(left) > 1:
                self.reached["a batch sent again in other company"] += 1
                middle = rnd.randint(1, len(left) - 1)
                shares = [left[:middle], left[middle:]]
            open_events: list[Event] = []
            for share in shares:
                body = request.body(scheduler.now, share)
                accounts.sent[request.project] += len(share)
                answer = self.world.gateway.send("POST", request.path, key_of(request.project, "write"), body)
                judged = answer.status in TAKEN or (answer.status == 400 and answer.body["code"] == NONE_TAKEN)
                taken = answer.body["event_ids"] if judged else []
                self.world.truth.acknowledge(request.project, taken, scheduler.now)
                if not judged and answer.status not in (0, 429, 502, 503, 504):
                    raise Broken(f"POST {request.path} answered {answer.status}: {answer.body}")
                refused = {each["event_id"] for each in answer.body.get("rejected", [])} if judged else ()
                accounts.taken[request.project] += len(taken)
                accounts.rejected[request.project] += len(refused)
                open_events += [e for e in share if e.id not in taken and e.id not in refused]
            if not open_events:
                return
            left = tuple(open_events)
            scheduler.pause(1 + rnd.random() * 60 * 2**attempt)

    def _poison(self, number: int) -> None:
        """A chunk of one project is unreadable, whatever brought it there; nobody else's wait for it."""
        self.reached["a chunk that nobody can read"] += 1
        now = self.world.scheduler.now
        item: dict[str, Any] = {
            "pk": {"S": f"{PROJECTS[0]}#nobody"},
            "sk": {"S": f"{iso(now)}#{number}"},
            "project": {"S": PROJECTS[0]},
            "received_at": {"N": str(int(now * 1000))},
            "events": {"N": "1"},
            "body": {"B": b"\x1f\x8b no gzip"},
        }
        self.world.services.dynamodb.put_item(f"tidemark-{resources.STAGE}-events", item)

    def _put_on_bus(self, event: Event, attempt: int = 1) -> None:
        """Lambda invokes the function up to three times; what is done may come once more."""
        scheduler, again = self.world.scheduler, partial(self._put_on_bus, event, attempt + 1)
        accounts = self.world.truth.accounts
        accounts.sent[event.project] += 1

        def ended(_result: Any, error: BaseException | None) -> None:
            if error is None:
                self.reached["an event of the bus"] += 1
                accounts.taken[event.project] += 1
                self.world.truth.acknowledge(event.project, [event.id], scheduler.now)
            if (error is not None and attempt < BUS_ATTEMPTS) or self.rnd.random() < self.world.mix.twice:
                scheduler.after(60.0 * attempt, again)

        self.world.functions.invoke("take_bus_event", event.to_bus(), ended)

    def _erase(self, erasure: Erasure) -> None:
        self.world.truth.erased.add((erasure.project, erasure.user))
        for _ in range(20):
            answer = self.world.gateway.send("DELETE", f"/users/{erasure.user}", key_of(erasure.project, "admin"))
            if answer.status == 202:
                self.reached["a user erased"] += 1
                return
            self.world.scheduler.pause(60)
        raise Broken(f"DELETE /users answered {answer.status} to the end: {answer.body}")

    def _import(self, file: ImportFile) -> None:
        key = f"raw/{file.project}/{file.name}"
        self.reached["a file imported"] += 1
        self.world.truth.files.setdefault(file.project, {})[file.name] = [event.id for event in file.events]
        self.world.services.s3.put_object(resources.DATA_BUCKET, key, file.content())

    def _dashboard(self, number: int) -> Dashboard:
        project = PROJECTS[number % len(PROJECTS)]
        world = self.world
        dashboard = Dashboard(
            project,
            key_of(project, "read"),
            number,
            world.gateway,
            world.services.sockets,
            world.mix,
            self.options.random(f"dashboard {number}"),
            world.reached,
        )
        dashboard.again = partial(self._act, "dashboard", dashboard.run)
        self.dashboards.append(dashboard)
        return dashboard

    def _split(self) -> None:
        self.reached["a shard that split"] += 1
        for trigger in self.world.streams:
            if "stream_arn" in trigger.trigger:
                stream = self.world.services.stream(trigger.trigger["stream_arn"])
                open_shards = [shard for shard in stream.shards if not shard.closed]
                if len(open_shards) < 3:
                    stream.split(self.rnd.choice(open_shards))

    def _expire(self) -> None:
        for table in self.world.services.dynamodb.tables.values():
            if table.expire(self.world.scheduler.now):
                self.reached["items deleted by their TTL"] += 1


def _peak_mb() -> int:
    """The most memory that this process had at any time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _next_look(now: float) -> float:
    """Shortly before the hourly workflow begins, and some time after it has ended."""
    hour = now - now % 3600
    return min(hour + at for at in (*LOOKS, *(3600 + each for each in LOOKS)) if hour + at > now)


def key_of(project: str, scope: str) -> str:
    """An API key of a history."""
    return f"{project}-{scope}"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    standard = logging.makeLogRecord({}).__dict__
    return {name: value for name, value in record.__dict__.items() if name not in standard and name != "_aws"}
