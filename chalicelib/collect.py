"""First stage: a request's events are judged, the good ones made durable in the queue, the others in quarantine.

Nothing is acknowledged before it is durable. When the queue refuses, the message is spilled to S3 and comes
back through `reinject`; when S3 refuses too, the caller is told to try again.
"""

import gzip
import logging
from dataclasses import dataclass

import orjson

from chalicelib.domain.access import Project
from chalicelib.domain.bodies import Request
from chalicelib.domain.chunks import Message, encode_message
from chalicelib.domain.errors import Unavailable
from chalicelib.domain.events import MAX_EVENT_BYTES, Admission, Admitter
from chalicelib.domain.partitions import quarantine_key, spill_key
from chalicelib.domain.time_windows import iso_ms
from chalicelib.storage.objects import DataBucket
from chalicelib.storage.queue import EventQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collector:
    """Takes requests of one project each."""

    admitter: Admitter
    queue: EventQueue
    bucket: DataBucket

    def collect(self, request: Request, project: Project, received_ms: int) -> Admission:
        """Judge and store; returns only when every event is in the queue, in the spill or in quarantine.

        Raises Unavailable when neither the queue nor the bucket takes them.
        """
        admission, texts = self._admit(request, project, received_ms, check_sizes=request.size_bytes > MAX_EVENT_BYTES)
        if admission.rejections:
            self._quarantine(admission, request, project, received_ms)
            counts = {"accepted": len(admission.event_ids), "rejected": len(admission.rejections)}
            log.info("events rejected", extra={"project": project.id, **counts})
        for text in texts:
            self._send(text, project.id)
        return admission

    def reinject(self, key: str) -> None:
        """Bring a spilled message back to the queue; twice is harmless, its chunks have the same keys."""
        content = self.bucket.get(key)
        if content is not None:
            self.queue.send(content.decode())
            self.bucket.delete(key)

    def _admit(
        self, request: Request, project: Project, received_ms: int, *, check_sizes: bool
    ) -> tuple[Admission, list[str]]:
        """The verdicts, and the messages of what was taken."""
        admission = self.admitter.admit(
            request.events, mode=project.mode, received_ms=received_ms, sent_at=request.sent_at, check_sizes=check_sizes
        )
        if not admission.events:
            return admission, []
        try:
            return admission, encode_message(Message(project.id, received_ms, admission.events))
        except TypeError:  # orjson.JSONEncodeError: some event is nested too deep, which checking each one tells
            if check_sizes:
                raise
            return self._admit(request, project, received_ms, check_sizes=True)

    def _send(self, text: str, project: str) -> None:
        try:
            self.queue.send(text)
        except Unavailable as refusal:
            try:
                self.bucket.put(spill_key(project, text), text.encode())
                log.warning("message spilled", extra={"project": project, "reason": refusal.message})
            except Unavailable as error:
                raise Unavailable(f"neither the queue nor the spill takes events: {refusal.message}") from error

    def _quarantine(self, admission: Admission, request: Request, project: Project, received_ms: int) -> None:
        try:
            lines = [orjson.dumps({**r.answer(), "event": r.event}) for r in admission.rejections]
        except TypeError:  # nested too deep to be written again: the request is kept as it came
            lines = [*(orjson.dumps(r.answer()) for r in admission.rejections), request.body]
        key = quarantine_key(project.id, received_ms, b"\n".join(lines))
        stamped = orjson.dumps({"received_at": iso_ms(received_ms), "project": project.id})
        self.bucket.put(key, gzip.compress(b"\n".join([stamped, *lines]), mtime=0))
