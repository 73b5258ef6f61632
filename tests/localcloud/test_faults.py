"""AWS's bad days, on demand: what each fault does, and to whom."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from localcloud import faults
from localcloud.application import set_pauses
from localcloud.environment import PAUSES_VARIABLE
from localcloud.faults import AGAIN, DEAF, LATE, LOST, OF_CALLS, REFUSED, SILENT, Faults, TroubledFunctions, with_faults
from localcloud.places import LocalCloudError, Places
from localcloud.wire import FunctionFailed
from tests.localcloud.conftest import Recorder

SDK = b"Boto3/1.43 md/Botocore"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path)
    places.logs.mkdir()
    return places


def switch_on(places: Places, strength: float = 1.0, seed: int = 7) -> None:
    places.faults.write_text(json.dumps({"seed": seed, "strength": strength}))


class Service:
    """An ASGI app that remembers what it did."""

    def __init__(self) -> None:
        self.done: list[bytes] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.done.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def call(app: Any, agent: bytes = SDK, service: str = "dynamodb") -> tuple[int, bytes]:
    """The answer to one call: status and body."""
    sent: list[dict[str, Any]] = []
    parts = [b"b", b"a"]
    headers = [
        (b"user-agent", agent),
        (b"authorization", f"AWS4-HMAC-SHA256 Credential=k/20261121/us-east-1/{service}/aws4_request, …".encode()),
        (b"x-amz-target", b"DynamoDB_20120810.PutItem"),
    ]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": "POST", "headers": headers}, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("kind", "happened", "status", "hangs"),
    [
        (REFUSED, False, 400, []),
        (SILENT, False, 500, ["after"]),
        (LOST, True, 500, []),
        (DEAF, True, 500, ["after"]),
        (LATE, True, 500, ["before"]),
    ],
)
def test_each_kind_of_fault_happens_or_does_not_and_never_says_so(
    places: Places, monkeypatch: pytest.MonkeyPatch, kind: str, happened: bool, status: int, hangs: list[str]
) -> None:
    service, hung = Service(), list[str]()

    async def hang(seconds: float) -> None:
        assert seconds == faults.HANG_SECONDS
        hung.append("after" if service.done or not happened else "before")

    monkeypatch.setattr(asyncio, "sleep", hang)
    monkeypatch.setattr(Faults, "of_call", lambda _self, name: kind if name == "dynamodb" else None)

    answered, _ = call(with_faults(service, Faults(places)))

    assert (answered, service.done == [b"ab"], hung) == (status, happened, hangs)
    assert json.loads((places.logs / "faults.log").read_text())["where"] == "dynamodb PutItem"


@pytest.mark.parametrize(("agent", "calls"), [(SDK, 0), (b"python-urllib", 1), (b"", 1)])
def test_only_calls_of_an_sdk_are_touched(
    places: Places, monkeypatch: pytest.MonkeyPatch, agent: bytes, calls: int
) -> None:
    service = Service()
    monkeypatch.setattr(Faults, "of_call", lambda _self, _name: REFUSED)

    call(with_faults(service, Faults(places)), agent)

    assert len(service.done) == calls


def test_nothing_goes_wrong_before_the_file_is_there_nor_after_it_is_gone(places: Places) -> None:
    now = [0.0]
    asked = Faults(places, lambda: now[0])

    def some() -> int:
        now[0] += 1.0
        return sum(asked.of_call("dynamodb") is not None for _ in range(5000))

    before = some()
    switch_on(places)
    during = some()
    places.faults.unlink()

    assert (before, during > 0, some()) == (0, True, 0)


def test_the_seed_decides_what_goes_wrong(places: Places) -> None:
    def drawn(seed: int) -> list[str | None]:
        switch_on(places, seed=seed)
        now = iter(range(10**6))
        asked = Faults(places, lambda: next(now) / 20)
        return [asked.of_call("dynamodb") for _ in range(4000)]

    assert drawn(7) == drawn(7) != drawn(8)
    assert set(drawn(7)) > {None, *OF_CALLS[:2]}


@pytest.mark.parametrize(
    ("kind", "invoked"), [(None, ["new"]), (REFUSED, []), (LOST, ["new"]), (AGAIN, ["old", "new"])]
)
def test_an_invocation_is_refused_loses_its_answer_or_brings_an_old_message(
    places: Places, function: Recorder, monkeypatch: pytest.MonkeyPatch, kind: str | None, invoked: list[str]
) -> None:
    port = int(function.start()._endpoint.port)
    functions = TroubledFunctions(port, Faults(places))
    monkeypatch.setattr(Faults, "of_invocation", lambda *_: (kind, b'"old"'))

    if kind in (REFUSED, LOST):
        with pytest.raises(FunctionFailed):
            functions.invoke("worker", b'"new"')
    else:
        functions.invoke("worker", b'"new"')

    assert [str(event) for event in function.events] == invoked


def test_only_messages_of_queues_come_again_and_they_were_there_before(places: Places) -> None:
    switch_on(places, strength=10)
    asked = Faults(places, lambda: 0.0)

    streamed = {asked.of_invocation("aggregate", b"batch") for _ in range(300)}
    queued = [asked.of_invocation("process", str(number).encode()) for number in range(300)]

    assert streamed == {(None, b""), (REFUSED, b""), (LOST, b"")}
    again = [(number, int(old)) for number, (kind, old) in enumerate(queued) if kind == AGAIN]
    assert again
    assert all(old <= number for number, old in again)


def test_pauses_are_those_of_the_process_and_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "CALLS", faults.CALLS)  # put back what is set below
    named = f"{faults.__name__}.CALLS"
    monkeypatch.setenv(PAUSES_VARIABLE, json.dumps({"rest": {named: 0.5}, "functions": {f"{named}_TOO": 1}}))

    with pytest.raises(LocalCloudError, match=r"CALLS_TOO, which does not exist"):
        set_pauses("functions")
    set_pauses("rest")

    assert faults.CALLS == 0.5
