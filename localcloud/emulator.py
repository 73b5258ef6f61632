"""MiniStack, embedded: how it is configured, what wakes the triggers, and how its state is saved and restored.

Everything that reaches into MiniStack's inside is here, in athena.py and in athena_executions.py, for the one release
that is pinned.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from localcloud import conditions
from localcloud.places import ACCOUNT, HOST, REGION, LocalCloudError, Places

Asgi = Callable[[Any, Any, Any], Awaitable[None]]
ITERATOR_SECONDS = 10  # not 5 minutes: each call of Kinesis looks at every iterator there is
KEPT_QUERIES, KEPT_BYTES = 200, 128 * 1024 * 1024  # Athena's executions with their results are part of the state
TABLE_SETTINGS = (
    "tags",
    "ttl_settings",
    "pitr_settings",
    "kinesis_destinations",
    "contributor_insights",
    "backups",
    "resource_policies",
    "exports",
    "imports",
)
WORKFLOW_SETTINGS = (
    "state_machines",
    "tags",
    "activities",
    "state_machine_versions",
    "state_machine_aliases",
    "map_runs",
)
READING = ("Get", "Describe", "List", "Query", "Scan", "Receive", "BatchGet", "Head")


class Emulator:
    """The AWS services as an ASGI app."""

    def __init__(self, places: Places, port: int) -> None:
        for folder in (places.services, places.objects):
            folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(
            {
                "GATEWAY_PORT": str(port),
                "MINISTACK_HOST": HOST,
                "BIND_HOST": HOST,
                "MINISTACK_REGION": REGION,
                "MINISTACK_ACCOUNT_ID": ACCOUNT,
                "S3_PERSIST": "1",
                "S3_DATA_DIR": str(places.objects),
                "PERSIST_STATE": "0",  # see `snapshot`
                "STATE_DIR": str(places.services),
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
                "LOG_LEVEL": "WARNING",
                "DOCKER_HOST": "unix:///nonexistent",  # it would look for containers of its own there
            }
        )
        # Before its import, which would send its log to standard error, where the supervisor shows it.
        logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
        import ministack.app
        from ministack.core import concurrency, persistence
        from ministack.services import dynamodb, kinesis

        self._app: Any = ministack.app
        self._dynamodb: Any = dynamodb
        self._kinesis: Any = kinesis
        self._persistence: Any = persistence
        self._written: threading.Event = concurrency.esm_wake
        self._saved = places.saved
        self._sequence = 0
        conditions.install(dynamodb)
        dynamodb._next_stream_seq = self._next_sequence
        kinesis._next_sequence_number = self._next_sequence
        kinesis.ITERATOR_EXPIRY_SECONDS = ITERATOR_SECONDS
        self.changes = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """MiniStack's app; counts what may change the state."""
        if scope["type"] == "http" and _writes(scope):
            self.changes += 1
        await self._app.app(scope, receive, send)

    def wake(self, notify: Callable[[], None]) -> None:
        """Call `notify` after writes to queues and streams, from a thread of its own."""

        def watch() -> None:
            while True:
                self._written.wait()
                self._written.clear()
                notify()

        threading.Thread(target=watch, name="waker", daemon=True).start()

    # State

    async def snapshot(self, checkpoints: dict[str, str], needed: Callable[[str], str]) -> bytes:
        """Return what `save` writes; runs on the server's loop, so between two requests.

        `needed` gives the sequence number that all triggers of a stream have passed.
        """
        self._forget_old_queries()
        own = {"dynamodb": self.tables, "stepfunctions": self.workflows}
        services = {}
        for name, state_of in self._app._build_persistence_save_dict().items():
            state = own.get(name, state_of)()
            if state is not None:
                services[name] = {"format": self._persistence._state_format_version(name), "state": state}
        document = {"services": services, "checkpoints": dict(checkpoints), "records": self._waiting(needed)}
        # MiniStack's own json.dump writes piece by piece, in six times the time.
        return json.dumps(document, default=self._persistence._json_default).encode()

    def save(self, snapshot: bytes) -> None:
        """Replace what was saved before, in one step.

        It is one file because all of it belongs to one moment: a message gone from its queue is in a table, an item
        in a table is in the stream or behind the checkpoint. Only S3 is not of that moment, for its objects are on
        disk at once: after a crash they are ahead of the rest, which is then delivered again.
        """
        draft = self._saved.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(snapshot)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._saved)

    def restore(self) -> dict[str, str]:
        """Put back what was saved, before anything is served; the checkpoints. Raises LocalCloudError."""
        if not self._saved.exists():
            return {}
        try:
            saved = json.loads(self._saved.read_bytes(), object_hook=self._persistence._json_object_hook)
            for name, service in saved["services"].items():
                if service["format"] > self._persistence._state_format_version(name):
                    raise ValueError(f"{name} was saved by a later version")
                self._app._get_module(self._app._state_map[name]).load_persisted_state(service["state"])
            checkpoints: dict[str, str] = saved["checkpoints"]
            self._sequence = max(map(int, checkpoints.values()), default=0)
            for _, shard in self._kinesis_shards():
                self._sequence = max([self._sequence, *(int(record["SequenceNumber"]) for record in shard["records"])])
            for table, records in saved["records"].items():
                self._dynamodb._stream_records.set_scoped(ACCOUNT, REGION, table, records)
                self._sequence = max(self._sequence, int(records[-1]["dynamodb"]["SequenceNumber"]))
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise LocalCloudError(
                f"{self._saved} cannot be read ({error}), so nothing was started or changed. Put a copy of it back, "
                "or begin anew with `make clean`, which removes every table, queue and object"
            ) from error
        return checkpoints

    def tables(self) -> dict[str, Any]:
        """Return what DynamoDB's own get_state gives, but not copied: it is written before anything can change it."""
        tables = type(self._dynamodb._tables)()
        for (account, region, name), table in self._dynamodb._tables.all_items():
            plain = {key: value for key, value in table.items() if key != self._dynamodb._INDEX_MEMBERS}
            tables.set_scoped(account, region, name, plain)
        return {"tables": tables, **{part: getattr(self._dynamodb, f"_{part}") for part in TABLE_SETTINGS}}

    def workflows(self) -> dict[str, Any]:
        """What Step Functions' own get_state gives, but each execution copied in one step, for its thread goes on.

        A thread notes the end of its execution in several steps, the date last: until then it runs, and begins anew
        when it is restored.
        """
        sfn = sys.modules["ministack.services.stepfunctions"]
        parts = {part: getattr(sfn, f"_{part}") for part in WORKFLOW_SETTINGS}
        executions = type(sfn._executions)()
        for (account, region, arn), execution in sfn._executions.all_items():
            copied = {**execution}
            copied["events"] = copied["events"].copy()
            if copied["stopDate"] is None:
                copied["status"] = "RUNNING"
            executions.set_scoped(account, region, arn, copied)
        return {"executions": executions, **{name: part.from_dict(part.to_dict()) for name, part in parts.items()}}

    def _waiting(self, needed: Callable[[str], str]) -> dict[str, list[Any]]:
        """Return the stream records that a trigger still waits for, by table; MiniStack forgets all when it ends."""
        waiting: dict[str, list[Any]] = {}
        for (account, region, table), records in self._dynamodb._stream_records.all_items():
            if account == ACCOUNT and region == REGION and records:
                passed = needed(records[-1]["eventSourceARN"])
                kept = [record for record in records if record["dynamodb"]["SequenceNumber"] > passed]
                if kept:
                    waiting[table] = kept
        return waiting

    def _next_sequence(self) -> str:
        """In MiniStack's form, but never behind one given before: its own goes back when the machine's clock does."""
        with self._dynamodb._stream_seq_lock:
            self._sequence = max(self._sequence + 1, int(time.time() * 1000) * 10**10)
            return f"{self._sequence:030d}"

    async def trim_streams(self, needed: Callable[[str], str]) -> None:
        """Drop records that every trigger has passed: nothing else reads them, and each holds an item's image."""
        for (account, region, table), records in list(self._dynamodb._stream_records.all_items()):
            if account != ACCOUNT or region != REGION or not records:
                continue
            passed = needed(records[-1]["eventSourceARN"])
            count = 0
            while count < len(records) and records[count]["dynamodb"]["SequenceNumber"] <= passed:
                count += 1
            if count:
                del records[:count]
                trimmed = self._dynamodb._stream_trimmed
                trimmed.set_scoped(account, region, table, trimmed.get_scoped(account, region, table, 0) + count)
        for source, shard in self._kinesis_shards():
            passed = needed(source)
            kept = [record for record in shard["records"] if record["SequenceNumber"] > passed]
            dropped = len(shard["records"]) - len(kept)
            shard["records"] = kept
            for _, iterator in self._kinesis._shard_iterators.all_items():  # each is a place in that list
                if f"{iterator['stream_arn']} {iterator['shard_id']}" == source:
                    iterator["position"] = max(0, iterator["position"] - dropped)

    def _kinesis_shards(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every shard, by the name that its triggers' checkpoints have."""
        for (account, region, _), stream in self._kinesis._streams.all_items():
            if account == ACCOUNT and region == REGION:
                for shard_id, shard in stream["shards"].items():
                    yield f"{stream['StreamARN']} {shard_id}", shard

    def _forget_old_queries(self) -> None:
        athena = sys.modules.get("ministack.services.athena")
        if athena is not None:
            executions = athena._executions._data
            kept_bytes = 0
            for number, key in enumerate(reversed(list(executions))):
                kept_bytes += executions[key].get("_bytes", 0)
                if number >= KEPT_QUERIES or (number and kept_bytes > KEPT_BYTES):
                    del executions[key]


def _writes(scope: Any) -> bool:
    for name, value in scope["headers"]:
        if name.lower() == b"x-amz-target":
            return not value.decode("latin-1").rpartition(".")[2].startswith(READING)
    return scope["method"] not in ("GET", "HEAD")


def log_to_terminal() -> None:
    """Warnings of the local cloud's own go to standard error, which the supervisor shows and logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.getLogger("localcloud")
    own.addHandler(handler)
    own.propagate = False
