"""Requests that bring events: in our own form, and from Segment-compatible SDKs."""

from typing import Any

from chalicelib import wiring
from chalicelib.access.access import Project, Scope, key_of
from chalicelib.base.errors import NotFound
from chalicelib.events.events import Admission
from chalicelib.http.calls import Call
from chalicelib.ingest import bodies, segment


def take_native(call: Call) -> tuple[dict[str, Any], int]:
    """Take events in our own form; return the verdicts, with 202 when any was taken."""
    owner = call.writer()
    read = bodies.read_native(call.body, call.headers)
    admission = _admitted(call, read, owner)
    return _verdicts(admission, read), 202 if admission.event_ids else 400


def take_segment(call: Call, kind: str) -> dict[str, Any]:
    """The answer to an SDK that calls `/v1/<kind>`; anything but 200 makes some send everything again, or drop it."""
    if kind not in segment.ROUTES:
        raise NotFound(f"/v1/{kind[:32]} does not exist; there are {', '.join(segment.KINDS)}")
    if segment.ROUTES[kind] == segment.METRICS:
        return {"success": True}  # what analytics.js reports of itself, without a key: dropped, for it is no event
    if key_of(call.headers):
        call.writer()  # before the body is read, which only an SDK that sends its key there makes necessary
    read = bodies.read_segment(call.body, segment.ROUTES[kind])
    return {"success": True, **_verdicts(_admitted(call, read, call.writer(read.write_key)), read)}


def segment_settings(call: Call, key: str) -> dict[str, Any]:
    """Return what browser SDKs ask before they send."""
    wiring.stages().authorizer.project_of_key(key, Scope.WRITE)
    return segment.settings(key, call.address(below="/v1/projects/"))


def source_config(call: Call) -> dict[str, Any]:
    """Return the same of RudderStack's."""
    return segment.source_config(call.write_key(), call.writer().id)


def _admitted(call: Call, read: bodies.Request, owner: Project) -> Admission:
    """Return what became of a request's events, which are all refused when the key has sent too many."""
    wiring.stages().throttle.take(owner.allowance, len(read.events), call.now_ms)
    return wiring.stages().collector.collect(read, owner, call.now_ms, call.client(owner))


def _verdicts(admission: Admission, read: bodies.Request) -> dict[str, Any]:
    """Return what a client is told of its events."""
    body: dict[str, Any] = {
        "accepted": len(admission.event_ids),
        "rejected": [read.answer(rejection) for rejection in admission.rejections],
        "event_ids": admission.event_ids,
    }
    if not admission.event_ids:
        body |= {"code": "nothing_accepted", "message": "none of the events was accepted; see rejected for each reason"}
    return body | ({"warnings": admission.warnings} if admission.warnings else {})
