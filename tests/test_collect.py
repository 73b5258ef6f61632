import gzip
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from chalicelib.collect import Collector
from chalicelib.domain.access import Project
from chalicelib.domain.bodies import read_native
from chalicelib.domain.chunks import decode_message
from chalicelib.domain.contracts import Contracts
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import Admitter, Mode
from chalicelib.domain.ledger import Tally
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.queue import EventQueue
from tests.stores import Stores, empty_stores

DEMO = Project("demo", Mode.INFER)
RECEIVED = 1_795_226_700_123


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


class Refusing:
    """A store that is down."""

    def send(self, text: str) -> None:
        raise Unavailable("down")

    def put(self, key: str, content: bytes) -> None:
        raise Unavailable("down")

    put_gzip = put


def collector(stores: Stores, queue: Any = None, bucket: Any = None, tally: Tally | None = None) -> Collector:
    admitter = Admitter(Contracts({}), new_id=lambda _: "made")
    return Collector(admitter, queue or stores.queue, bucket or stores.bucket, stores.ledger, tally or Tally("c1"))


def request(*events: Any) -> bytes:
    return orjson.dumps({"events": list(events)})


def test_what_is_accepted_is_on_the_queue(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"}, {"event_type": "click", "event_id": "b"})

    admission = collector(stores).collect(read_native(body), DEMO, RECEIVED)

    [text] = stores.messages()
    message = decode_message(text)
    assert admission.event_ids == ["a", "b"]
    assert (message.project, message.received_ms) == ("demo", RECEIVED)
    assert [e["event_id"] for e in message.events] == ["a", "b"]


def test_rejected_events_are_kept_with_their_reasons_once_however_often_they_are_sent(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"}, {"event_type": 7, "event_id": "b"})

    for attempt in range(2):
        collector(stores).collect(read_native(body), DEMO, RECEIVED + attempt)

    [key] = stores.objects("quarantine/")
    lines = [orjson.loads(line) for line in gzip.decompress(stores.bucket.get(key) or b"").splitlines()]
    assert key.startswith("quarantine/project=demo/dt=2026-11-21/")
    assert lines[1]["code"] == "contract_violation"
    assert lines[1]["event"] == {"event_type": 7, "event_id": "b"}


@pytest.mark.parametrize("depth", [251, 252, 253, 300, 900])
def test_an_event_that_is_nested_too_deep_costs_the_others_nothing(stores: Stores, depth: int) -> None:
    deep = b'{"event_type": "click", "event_id": "deep", "properties": {"x": ' + b"[" * depth + b"]" * depth + b"}}"
    body = b'{"events": [{"event_type": "click", "event_id": "a"}, ' + deep + b"]}"

    admission = collector(stores).collect(read_native(body), DEMO, RECEIVED)

    [key] = stores.objects("quarantine/")
    assert admission.event_ids == ["a"]
    assert [(r.event_id, r.code) for r in admission.rejections] == [("deep", "too_deep")]
    kept = gzip.decompress(stores.bucket.get(key) or b"")
    assert deep.replace(b" ", b"") in kept.replace(b" ", b"")


def test_when_the_queue_is_down_the_batch_is_spilled_and_comes_back(stores: Stores) -> None:
    body = request({"event_type": "click", "event_id": "a"})
    collector(stores, queue=Refusing()).collect(read_native(body), DEMO, RECEIVED)
    [key] = stores.objects("spill/")

    for _ in range(2):
        collector(stores).reinject(key)

    [text] = stores.messages()
    assert decode_message(text).events[0]["event_id"] == "a"
    assert stores.objects("spill/") == []


def test_while_the_queue_stays_down_a_spilled_batch_stays(stores: Stores) -> None:
    collector(stores, queue=Refusing()).collect(read_native(request({"event_type": "click"})), DEMO, RECEIVED)
    [key] = stores.objects("spill/")

    with pytest.raises(Unavailable):
        collector(stores, queue=Refusing()).reinject(key)

    assert stores.objects("spill/") == [key]


@pytest.mark.parametrize("event", [{"event_type": "click"}, {"event_type": 7}])
def test_when_nothing_is_durable_nothing_is_acknowledged(stores: Stores, event: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        collector(stores, queue=Refusing(), bucket=Refusing()).collect(read_native(request(event)), DEMO, RECEIVED)


def test_a_queue_that_does_not_exist_is_a_queue_that_is_down(stores: Stores) -> None:
    with pytest.raises(Unavailable, match="did not take"):
        EventQueue(stores.queue.client, stores.queue.url + "x").send("text")
    with pytest.raises(Unavailable, match="did not take"):
        DataBucket(stores.bucket.client, "missing").put("key", b"")
