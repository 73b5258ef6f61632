"""Runs the pumps that the app's decorators ask for, and brings what was accepted to its end before the cloud stops."""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.places import ACCOUNT, REGION, LocalCloudError
from localcloud.pump import Pump, Waker, drained
from localcloud.queue_pump import NotificationPump, QueuePump
from localcloud.schedule import Schedule
from localcloud.shards import Shard, TableShard, kinesis_shards
from localcloud.stream_pump import StreamPump, checkpoint_key
from localcloud.wire import ApiError, CloudApi, FunctionsApi

log = logging.getLogger("localcloud.triggers")

QUEUE_POLLERS = 4  # Lambda begins with five
JOIN_SECONDS = 5  # for a pump to note that its last invocation ended
NOTIFICATION_VISIBILITY_SECONDS = "900"


class Triggers:
    """The pumps now running. `subscribe` has a bucket or the bus send its events to a queue."""

    def __init__(
        self,
        cloud: CloudApi,
        functions: FunctionsApi,
        checkpoints: dict[str, str],
        subscribe: Callable[[dict[str, Any], str], None],
    ) -> None:
        self.cloud = cloud
        self.functions = functions
        self.checkpoints = checkpoints
        self.subscribe = subscribe
        self.waker = Waker()
        self._lock = threading.Lock()
        self._running: dict[str, list[Pump]] = {}
        self.stream_triggers: list[dict[str, Any]] = []

    def pumps(self) -> list[Pump]:
        """Return all of them."""
        with self._lock:
            return [pump for pumps in self._running.values() for pump in pumps]

    def configure(self, triggers: list[dict[str, Any]]) -> None:
        """Start what is new, end what is gone; a trigger that cannot run is an error in the log, and the others run."""
        wanted = {json.dumps(trigger, sort_keys=True): trigger for trigger in triggers}
        with self._lock:
            gone = [pump for key in self._running.keys() - wanted.keys() for pump in self._running.pop(key)]
        for pump in gone:
            pump.stop()
        for pump in gone:
            pump.join(self.functions.longest_seconds() + JOIN_SECONDS)  # its batch must not be read twice
        self.stream_triggers = [trigger for trigger in triggers if "stream_arn" in trigger]
        for key, trigger in wanted.items():
            if key not in self._running:
                try:
                    pumps = self._pumps_of(trigger)
                except (LocalCloudError, ApiError, ClientError, BotoCoreError) as error:
                    log.error("the trigger of %s cannot run: %s", trigger["function"], error)
                    continue
                with self._lock:
                    self._running[key] = [pump.start() for pump in pumps]

    def drain(self, seconds: float, give_up: Callable[[], bool]) -> bool:
        """Deliver what is in the queues and streams; False when that was not done in time."""
        for pump in self.pumps():
            pump.hurried = True
        return drained(self.pumps, seconds, lambda: give_up() or not self.functions.reachable())

    def stop(self, seconds: float) -> None:
        """End all pumps; deliveries in progress have that long."""
        pumps = self.pumps()
        for pump in pumps:
            pump.stop()
        for pump in pumps:
            pump.join(seconds)

    def oldest_needed(self, source: str) -> str:
        """Return the sequence number that every trigger of a shard has passed; empty when one has not begun."""
        stream_arn = source.partition(" ")[0]
        reading = [trigger for trigger in self.stream_triggers if trigger["stream_arn"] == stream_arn]
        keys = [checkpoint_key(trigger, source) for trigger in reading]
        return min((self.checkpoints.get(key, "") for key in keys), default="")

    def _pumps_of(self, trigger: dict[str, Any]) -> list[Pump]:
        match trigger["type"]:
            case "queue":
                count = min(trigger["concurrency"] or QUEUE_POLLERS, QUEUE_POLLERS)
                return [
                    QueuePump(trigger, self.cloud, self.functions, self.waker, number + 1) for number in range(count)
                ]
            case "stream":
                return self._stream_pumps(trigger, [TableShard(trigger, self.cloud)])
            case "kinesis":
                return self._stream_pumps(trigger, kinesis_shards(trigger["stream_arn"], self.cloud))
            case "bucket" | "bus":
                return [self._notification_pump(trigger)]
            case "schedule":
                return [Schedule(trigger, self.functions, self.waker)]
            case kind:
                raise LocalCloudError(f"the local cloud has no trigger of type {kind!r}")

    def _stream_pumps(self, trigger: dict[str, Any], shards: Sequence[Shard]) -> list[Pump]:
        return [StreamPump(trigger, shard, self.functions, self.checkpoints, self.waker) for shard in shards]

    def _notification_pump(self, trigger: dict[str, Any]) -> Pump:
        name = f"localcloud-{trigger['function']}-notifications"
        attributes = {"VisibilityTimeout": NOTIFICATION_VISIBILITY_SECONDS}
        self.cloud.sqs("CreateQueue", QueueName=name, Attributes=attributes)
        self.subscribe(trigger, f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
        queue = {**trigger, "queue": name, "batch_size": 1, "window_seconds": 0, "partial_results": False}
        return NotificationPump(queue, self.cloud, self.functions, self.waker)
