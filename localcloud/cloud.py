"""The cloud process: the AWS services, the resources, the triggers, the WebSocket gateway and Athena's answers."""

import json
import os
import queue
import socket
import time
from typing import Any

import boto3
from botocore.config import Config

from localcloud.child import commands, report
from localcloud.emulator import Emulator, log_to_terminal
from localcloud.environment import chosen_buffer
from localcloud.faults import Faults, TroubledFunctions, with_faults
from localcloud.gateway import FRAME_BYTES, Gateway
from localcloud.places import PROJECT, REGION, STAGE, LocalCloudError, Places, Ports
from localcloud.seeds import seed
from localcloud.server import AsgiServer
from localcloud.stack import ensure_stack
from localcloud.triggers import Triggers
from localcloud.wire import CloudApi
from localcloud.workflows import Workflows

DRAIN_SECONDS = 10.0
LAST_DELIVERIES_SECONDS = 5.0
SAVE_EVERY_SECONDS = 15.0  # when something changed; a save stops the services while it is made
SAVE_SHARE = 0.05  # of the time at most: a large state is saved less often


def serve_cloud(places: Places) -> int:
    """Serve until told to stop; then deliver what is under way, and save."""
    log_to_terminal()
    return Cloud(places, Ports.from_environment(os.environ)).run()


class Cloud:
    """Puts the parts together, and saves them from time to time."""

    def __init__(self, places: Places, ports: Ports) -> None:
        self.places = places
        self.ports = ports
        self.received = commands()
        self.emulator = Emulator(places, ports.cloud)
        from localcloud import athena  # it needs MiniStack's modules, whose import needs the environment

        self.queries = athena.install(places.root / "athena")
        self.checkpoints = self.emulator.restore()
        self.queries.fail_unfinished()
        faults = Faults(places)
        services = with_faults(self.emulator.app, faults)
        self.server = AsgiServer(services, _inherited("LOCALCLOUD_CLOUD_SOCKET"), "services")
        self._await_services()
        template = PROJECT / "infra" / "template.yaml"
        self.outputs = ensure_stack(self._client("cloudformation"), template, places.stack, chosen_buffer())
        self._s3, self._events = self._client("s3"), self._client("events")
        seed(self._client("dynamodb"), self.outputs["ControlTable"])
        self.functions = TroubledFunctions(int(os.environ["LOCALCLOUD_FUNCTIONS_PORT"]), faults)
        self.workflows = Workflows(self.functions)
        self.gateway = Gateway(self.functions, f"127.0.0.1:{ports.websocket}", STAGE)
        self.gateway_server = AsgiServer(
            self.gateway.app, _inherited("LOCALCLOUD_WEBSOCKET_SOCKET"), "gateway", max_message_bytes=4 * FRAME_BYTES
        )
        self.triggers = Triggers(CloudApi(ports.cloud), self.functions, self.checkpoints, self._subscribe)
        self.emulator.wake(self.triggers.waker.notify)
        self.saved_changes, self.saved_at, self.save_seconds = 0, time.monotonic(), 0.0

    def run(self) -> int:
        """Run until the process is told to end; return its exit code."""
        if resumed := self.workflows.resume():
            print(f"{resumed} workflows begin anew", flush=True)
        self.save()
        report(ready=True, outputs=self.outputs)
        try:
            self._end(hurry=self._serve())
        finally:  # whatever went wrong, what was accepted is kept
            self.save()
            self.server.stop()
        return 0

    def _serve(self) -> bool:
        """Until told to stop; whether at once."""
        hurry = False
        while True:
            try:
                command = self.received.get(timeout=1.0)
            except queue.Empty:
                self._save_when_due()
                continue
            if "triggers" in command:
                self.functions.timeouts = command["timeouts"]
                self.triggers.configure(command["triggers"])
            if "hurry" in command:
                hurry = True
            if "stop" in command:
                return hurry

    def save(self) -> None:
        """Save everything as of one moment."""
        changes, started = self.emulator.changes, time.monotonic()
        self.emulator.save(self.server.call(self.emulator.snapshot(self.checkpoints, self.triggers.oldest_needed)))
        self.saved_changes, self.saved_at = changes, time.monotonic()
        self.save_seconds = self.saved_at - started
        print(f"saved in {self.save_seconds:.3f} s", flush=True)

    def _save_when_due(self) -> None:
        wait = max(SAVE_EVERY_SECONDS, self.save_seconds / SAVE_SHARE)
        if self.emulator.changes != self.saved_changes and time.monotonic() - self.saved_at >= wait:
            self.save()
            self.workflows.forget()
            self.server.call(self.emulator.trim_streams(self.triggers.oldest_needed))

    def _end(self, hurry: bool) -> None:
        def hurried() -> bool:
            try:
                return hurry or "hurry" in self.received.get_nowait()
            except queue.Empty:
                return False

        self.workflows.stop()
        if self.triggers.pumps() and not self.triggers.drain(DRAIN_SECONDS, hurried):
            print("not everything could be delivered in time; it is kept for the next start", flush=True)
        self.triggers.stop(LAST_DELIVERIES_SECONDS)
        self.server.call(self.queries.stop_all())
        self.gateway_server.call(self.gateway.close_all())
        self.gateway_server.stop()

    def _await_services(self) -> None:
        # The socket listens before the server does, so the first connection waits for it.
        with socket.create_connection(("127.0.0.1", self.ports.cloud), timeout=30) as probe:
            probe.sendall(b"GET /_ministack/health HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n")
            if b" 200" not in probe.recv(64):
                raise LocalCloudError(f"the services do not answer at {self.ports.cloud_url}")

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.ports.cloud_url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"mode": "standard", "max_attempts": 3}, s3={"addressing_style": "path"}),
        )

    def _subscribe(self, trigger: dict[str, Any], queue_arn: str) -> None:
        if trigger["type"] == "bus":
            self._events.put_rule(Name=trigger["function"], EventPattern=json.dumps(trigger["pattern"]))
            self._events.put_targets(Rule=trigger["function"], Targets=[{"Id": "queue", "Arn": queue_arn}])
        else:
            self._notify_bucket(trigger, queue_arn)

    def _notify_bucket(self, trigger: dict[str, Any], queue_arn: str) -> None:
        rules = [{"Name": name, "Value": trigger[name]} for name in ("prefix", "suffix") if trigger[name]]
        configuration = {"Id": trigger["function"], "QueueArn": queue_arn, "Events": trigger["events"]}
        if rules:
            configuration["Filter"] = {"Key": {"FilterRules": rules}}
        current = self._s3.get_bucket_notification_configuration(Bucket=trigger["bucket"])
        others = [entry for entry in current.get("QueueConfigurations", []) if entry.get("Id") != trigger["function"]]
        self._s3.put_bucket_notification_configuration(
            Bucket=trigger["bucket"], NotificationConfiguration={"QueueConfigurations": [*others, configuration]}
        )


def _inherited(variable: str) -> socket.socket:
    return socket.socket(fileno=int(os.environ[variable]))
