"""The main job on the whole stack: what is sent arrives, once, everywhere, and soon."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

import pytest

from chalicelib.settings import BUFFERS
from tests.end_to_end.client import Api, Watcher, eventually
from tests.localcloud.running import Stack

BATCHES, BATCH_SIZE, CLIENTS = 100, 100, 8
REPEATED = 0.05
VISIBILITY_SECONDS = "15"  # longer than the functions take to start again; the template has 60 for a laptop
BUCKET = "tidemark-dev-data-000000000000"


@pytest.fixture
def buffer() -> str:
    """What lies between the edge and the pipeline; what `on_both_buffers` marks runs with each."""
    return "sqs"


on_both_buffers = pytest.mark.parametrize("buffer", BUFFERS)


@pytest.fixture
def running(buffer: str, request: pytest.FixtureRequest) -> Stack:
    """The whole product with that buffer."""
    found: Stack = request.getfixturevalue("stack" if buffer == "sqs" else "kinesis_stack")
    return found


@pytest.fixture
def api(running: Stack) -> Api:
    return Api(running.rest_url)


def event_type() -> str:
    """A type of its own for each test, so that the shared stack's other events do not count."""
    return f"t_{uuid.uuid4().hex[:12]}"


def batch(kind: str, size: int, *, users: int = 500) -> list[dict[str, Any]]:
    now = datetime.now(UTC).isoformat()
    return [
        {
            "event_type": kind,
            "event_id": str(uuid.uuid4()),
            "user_id": f"user-{random.randrange(users)}",
            "timestamp": now,
            "properties": {"n": n},
        }
        for n in range(size)
    ]


@pytest.mark.parametrize("buffer", ["sqs", pytest.param("kinesis", marks=pytest.mark.slow)])
def test_ten_thousand_events_are_counted_once_everywhere(api: Api) -> None:
    kind = event_type()
    batches = [batch(kind, BATCH_SIZE) for _ in range(BATCHES)]
    repeated = random.Random(1).sample(batches, int(BATCHES * REPEATED))
    watcher = Watcher(api, kind)

    async def send_and_watch() -> tuple[list[int], float]:
        ready = asyncio.Event()
        watching = asyncio.create_task(watcher.watch(lambda total: total >= BATCHES * BATCH_SIZE, ready=ready))
        await ready.wait()
        with ThreadPoolExecutor(CLIENTS) as clients:
            loop = asyncio.get_running_loop()
            sends = [
                loop.run_in_executor(clients, api.post, b) for b in random.Random(2).sample(batches + repeated, 105)
            ]
            answers = [answer.status for answer in await asyncio.gather(*sends)]
            sent_at = time.monotonic()
        await watching
        return answers, sent_at

    statuses, sent_at = asyncio.run(send_and_watch())

    assert set(statuses) == {202}
    eventually(lambda: api.total(kind), 10_000, seconds=max(10 - (time.monotonic() - sent_at), 0.2))
    assert watcher.total == 10_000
    eventually(lambda: api.sql(f"SELECT count(*), count(DISTINCT event_id) FROM events WHERE event_type = '{kind}'"),
               [[10_000, 10_000]], seconds=30)  # fmt: skip
    again = Watcher(api, kind)
    assert asyncio.run(again.watch(lambda _: True)) == 10_000
    assert api.total(kind) == 10_000


def test_an_event_is_on_the_websocket_within_a_second(api: Api) -> None:
    kind = event_type()
    seconds, rate = 6, 50
    count = seconds * rate
    watcher = Watcher(api, kind)
    posted: list[float] = []

    async def send_and_watch() -> None:
        ready = asyncio.Event()
        watching = asyncio.create_task(watcher.watch(lambda total: total >= count, ready=ready))
        await ready.wait()
        start = time.monotonic()

        def send(n: int) -> None:
            time.sleep(max(start + n / rate - time.monotonic(), 0))
            assert api.post(batch(kind, 1)).status == 202
            posted.append(time.monotonic())

        with ThreadPoolExecutor(CLIENTS) as clients:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(clients, send, n) for n in range(count)))
        await watching

    asyncio.run(send_and_watch())

    # The n-th event to be acknowledged is shown at the latest when the total reaches n.
    posted.sort()
    delays = sorted(next(at for at, total in watcher.reached if total > n) - posted[n] for n in range(count))
    print(f"\nPOST to WebSocket: p50 {delays[count // 2]:.3f} s, p95 {delays[int(count * 0.95)]:.3f} s")
    assert watcher.total == count


@pytest.fixture
def soon_visible(running: Stack) -> Iterator[None]:
    """What a function that dies had received is visible again after a quarter of a laptop's minute."""
    sqs = running.client("sqs")
    url = sqs.get_queue_url(QueueName="tidemark-dev-events")["QueueUrl"]
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": VISIBILITY_SECONDS})
    yield
    sqs.set_queue_attributes(QueueUrl=url, Attributes=before)


@on_both_buffers
@pytest.mark.usefixtures("soon_visible")
@pytest.mark.parametrize("process", ["rest", "functions"])
def test_killing_the_app_under_load_loses_nothing_and_counts_nothing_twice(
    api: Api, running: Stack, process: str
) -> None:
    kind = event_type()
    batches = [batch(kind, 20) for _ in range(60)]

    def send_until_acknowledged(events: list[dict[str, Any]]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if api.post(events).status == 202:
                    return
            except (OSError, HTTPException):  # of a process that died before, or while it answered
                pass  # the process is gone; a client sends the same again
            time.sleep(0.1)
        raise AssertionError("never acknowledged")

    with ThreadPoolExecutor(CLIENTS) as clients:
        sends = [clients.submit(send_until_acknowledged, b) for b in batches]
        for _ in range(2):
            time.sleep(0.3)
            running.kill(process)
        for send in sends:
            send.result()

    eventually(lambda: api.total(kind), 1_200, seconds=120)  # a message in flight comes again later
    eventually(lambda: api.sql(f"SELECT count(*) FROM events WHERE event_type = '{kind}'"), [[1_200]], seconds=60)
    # Of all that this and other tests sent: received = stored + duplicate + quarantined.
    eventually(lambda: [hour["in_flight"] for hour in api.ledger()], [0, 0], seconds=30)


def test_a_browser_is_described_and_a_bot_is_in_the_lake_but_in_no_metric(api: Api) -> None:
    kind = event_type()
    firefox = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0"
    crawler = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

    for agent, size in ((firefox, 3), (crawler, 2)):
        body = json.dumps(batch(kind, size)).encode()
        sent = api.call("POST", "/events", key="demo-write", body=body, headers={"User-Agent": agent})
        assert sent.status == 202

    eventually(lambda: api.total(kind), 3, seconds=30)
    columns = "json_extract_scalar(enrichment, '$.browser'), json_extract_scalar(enrichment, '$.ip'), count(*)"
    eventually(
        lambda: api.sql(f"SELECT {columns} FROM events WHERE event_type = '{kind}' GROUP BY 1, 2 ORDER BY 1"),
        [["Firefox", "127.0.0.0", 3], ["Googlebot", "127.0.0.0", 2]],
        seconds=30,
    )


def test_projects_do_not_see_each_other(api: Api) -> None:
    kind = event_type()
    assert api.post(batch(kind, 3)).status == 202
    eventually(lambda: api.total(kind), 3, seconds=20)
    eventually(lambda: api.sql(f"SELECT count(*) FROM events WHERE event_type = '{kind}'"), [[3]], seconds=30)

    assert api.total(kind, key="other-read") == 0
    assert api.sql(f"SELECT count(*) FROM events WHERE event_type = '{kind}'", key="other-read") == [[0]]


def test_rejected_events_are_in_quarantine_with_their_reason(api: Api, stack: Stack) -> None:
    marker = uuid.uuid4().hex
    good = batch(event_type(), 1)
    bad = {"event_type": "api_request", "event_id": marker, "properties": {"latency_ms": "slow"}}

    answer = api.post([*good, bad])

    assert answer.status == 202
    assert answer.body["accepted"] == 1
    [rejection] = answer.body["rejected"]
    assert (rejection["index"], rejection["code"]) == (1, "contract_violation")
    assert rejection["path"] == "/properties/latency_ms"
    s3 = stack.client("s3")
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET, Prefix="quarantine/project=demo/")["Contents"]]
    assert any(marker in _read(s3, BUCKET, key) for key in keys)


def _read(s3: Any, bucket: str, key: str) -> str:
    import gzip

    return gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode()
