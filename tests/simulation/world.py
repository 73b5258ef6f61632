"""The deployed system of a history: services, functions, triggers and workflows, joined as infra/ and app.py say."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from localcloud.declared_triggers import read_triggers
from localcloud.schedule import period_seconds
from tests.simulation import resources
from tests.simulation.faults import SeededQuirks
from tests.simulation.functions import Functions
from tests.simulation.gateway import Gateway
from tests.simulation.network import Network
from tests.simulation.options import Options
from tests.simulation.ports.table_stream import TableStream
from tests.simulation.scene import Scene
from tests.simulation.scheduler import Scheduler, current
from tests.simulation.services import Services
from tests.simulation.sources import KinesisSource, TableSource
from tests.simulation.streams import Source, StreamTrigger
from tests.simulation.trace import Trace
from tests.simulation.triggers import BucketTrigger, QueueTrigger, ScheduleTrigger
from tests.simulation.truth import Truth
from tests.simulation.workflows import Workflows, read_machines

WATCHED_EVERY = 30  # minutes: schedules that only look, of which one firing tells as much as many
FRAME_PERCENT = 128  # what the gateway takes, of what the app makes of it: 128 KB of 100
CALM_EVERY = 10  # minutes, once nothing goes wrong any more
LOOKS_ONLY = ("audit", "watch")


class World:
    """One history's system; `app` is the Chalice app."""

    def __init__(self, options: Options, app: Any, trace: Trace, reached: Callable[[str], None]) -> None:
        self.options, self.trace, self.reached = options, trace, reached
        self.scheduler = Scheduler(options.started_at, app)
        trace.scheduler = self.scheduler
        self.names, self.chance = options.random("names"), f"{options.seed} chance"
        self.mix = options.mix()
        self.truth = Truth()
        scene = self.scene = Scene(self.scheduler, self.mix, trace, reached)
        network = self.network = Network(scene, options.random("calls"))
        network.faults_until, network.hangs = options.faults_until, self._hangs
        quirks = SeededQuirks(options.random("quirks"), self.mix, reached)
        self.services = Services(lambda: self.scheduler.now, network, quirks, options.shards)
        if smaller := options.bounds.get("MAX_FRAME_BYTES"):
            self.services.sockets.most_bytes = smaller * FRAME_PERCENT // 100
        handlers = {name: handler for name, handler in app.handler_map.items() if name != "api_handler"}
        timeouts = resources.timeouts([*handlers, "api_handler"])
        self.functions = Functions(scene, {**handlers, "api_handler": app}, timeouts, options.random("containers"))
        self.gateway = Gateway(self.functions, self.scheduler, app.routes)
        rnd = options.random("workflows")
        self.workflows = Workflows(scene, read_machines(), self.services.workflows, self.functions, rnd)
        self.services.workflows.started = self.workflows.start
        self.streams: list[StreamTrigger] = []
        self.queues: list[QueueTrigger] = []
        self.buckets: list[BucketTrigger] = []
        self.schedules: list[ScheduleTrigger] = []
        for trigger in read_triggers(app, resources.ROOT / "infra" / "triggers.json"):
            self._join(trigger)
        self._listen()

    @property
    def hash_bits(self) -> int:
        """Of the app's own hashes."""
        return self.mix.hash_bits

    def time(self) -> float:
        """The clock of whoever asks."""
        actor = current()
        skew = actor.container.skew_seconds if actor is not None and actor.container is not None else 0.0
        return self.scheduler.now + skew

    def sleep(self, seconds: float) -> None:
        """Let others go on."""
        self.scheduler.pause(seconds)

    def heal(self) -> None:
        """From now on nothing goes wrong any more; what is late is still to come."""
        self.mix.leave_out(self.mix.kinds())
        for trigger in self.streams:
            trigger.wake()
        self.thin_out(CALM_EVERY)

    def thin_out(self, minutes: int) -> None:
        """Of the schedules of every few minutes have one firing in so many minutes."""
        for schedule in self.schedules:
            period = period_seconds(schedule.trigger["expression"])
            if period < 3600:
                schedule.every = max(schedule.every, minutes * 60 // period)

    def pending(self) -> int:
        """What triggers and workflows have not done with."""
        waiting = sum(trigger.waiting() for trigger in self.streams)
        waiting += sum(trigger.waiting() for trigger in [*self.queues, *self.buckets])
        return waiting + len(self.services.workflows.running)

    def redrive(self) -> None:
        """What an operator does about dead letters."""
        for name, queue in self.services.sqs.queues.items():
            if queue.dead_letters and self.services.sqs.move(queue.dead_letters, name):
                self.reached("dead letters that were sent again")
        for trigger in self.queues:
            trigger.wake()

    def _join(self, trigger: dict[str, Any]) -> None:
        rnd = self.options.random(f"{trigger['function']} {trigger['type']}")
        scene, functions = self.scene, self.functions
        match trigger["type"]:
            case "queue":
                self.queues.append(QueueTrigger(scene, trigger, functions, rnd, sqs=self.services.sqs))
                self._join_kinesis(trigger["function"], rnd)
            case "stream":
                stream = self.services.stream(trigger["stream_arn"])
                sources = partial(_shards_of, stream)
                self._join_stream(StreamTrigger(scene, trigger, sources, functions, rnd), stream, rnd)
            case "bucket":
                self.buckets.append(BucketTrigger(scene, trigger, functions, rnd, s3=self.services.s3))
            case "schedule":
                every = WATCHED_EVERY if trigger["function"] in LOOKS_ONLY else 1
                thin = self.options.thin
                erase = thin if self.options.erasures else WATCHED_EVERY
                every = {"compact": thin, "erase": erase, "reconcile": 3}.get(trigger["function"], every)
                if self.options.reconciles or trigger["function"] != "reconcile":
                    self.schedules.append(ScheduleTrigger(scene, trigger, functions, rnd, every=every))

    def _join_stream(self, made: StreamTrigger, stream: TableStream, rnd: random.Random) -> None:
        if "events" in stream.arn:
            made.delivered = self._delivered
            made.lost = self._lost
            made.cut = self._cut
        if self.mix.behind == made.function:
            self.reached(f"{made.function} far behind")
            least = 0.8 if self.mix.behind_seconds > 24 * 3600 else 0.0  # up to the border of what a stream remembers
            made.resumes_at = self.scheduler.now + (least + rnd.random() * (1 - least)) * self.mix.behind_seconds
        self.streams.append(made)

    def _join_kinesis(self, function: str, rnd: random.Random) -> None:
        """The same function reads the other buffer, where a history has that one."""
        name = f"tidemark-{resources.STAGE}-events"
        arn, stream = resources.KINESIS_ARN.format(name), self.services.kinesis.streams[name]
        mapping = {
            "function": function,
            "batch_size": 200,
            "window_seconds": 0,
            "partial_results": True,
            "bisect": True,
            "patterns": [],
        }
        sources = [KinesisSource(arn, stream, each) for each in stream.shards]
        made = StreamTrigger(self.scene, mapping, lambda: sources, self.functions, rnd)
        self.services.kinesis.put = lambda _stream: made.wake()
        self.streams.append(made)

    def _listen(self) -> None:
        """Triggers are woken by what is written."""
        self.services.sqs.sent = self._sent
        self.services.s3.created = self._created
        for table in self.services.dynamodb.tables.values():
            if table.stream is not None:
                table.stream.appended_to = self._appended

    def _sent(self, _queue: str) -> None:
        for trigger in self.queues:
            trigger.wake()

    def _created(self, bucket: str, key: str) -> None:
        for trigger in self.buckets:
            trigger.created(bucket, key)

    def _appended(self, stream: TableStream) -> None:
        if "events" in stream.arn:
            self.truth.inserted(stream.newest)
        for trigger in self.streams:
            if trigger.trigger.get("stream_arn") == stream.arn:
                trigger.wake()

    def _delivered(self, function: str, source: Source, first: int, end: int) -> None:
        assert isinstance(source, TableSource)
        for record in source.shard.records[first:end]:
            self.truth.deliver(function, record, self.scheduler.now)

    def _lost(self, function: str, source: Source, number: int) -> None:
        """What one consumer never saw, and what its batch had beside it, may be wrong until a day is over."""
        assert isinstance(source, TableSource)
        if function == "aggregate":
            self.truth.accounts.lose(source.shard.records[number])
        self.truth.trimmed |= {(row.project, row.id) for row in self.truth.rows_of(source.shard.records[number])}
        for record in source.shard.records[number : number + 1000]:
            self.truth.doubt(record)

    def _cut(self, _function: str, source: Source, first: int, end: int) -> None:
        assert isinstance(source, TableSource)
        for record in source.shard.records[first:end]:
            self.truth.doubt(record)

    def _hangs(self, arguments: dict[str, Any]) -> bool:
        socket = self.services.sockets.open.get(arguments["ConnectionId"])
        return socket is not None and socket.hangs


def _shards_of(stream: TableStream) -> list[TableSource]:
    return [TableSource(stream, shard) for shard in stream.shards]
