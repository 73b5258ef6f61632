"""What dashboards are sent: snapshots, deltas, and the rule by which both add up to exact numbers.

A client's number is the snapshot's totals plus, by id, the latest delta it got, except ids named as absorbed. Of a
delta in parts, its parts added up; of a delta that was pushed and is in the snapshot too, what was pushed. Frames of an
older subscription than the last count for nothing. A frame is bounded by its bytes, whatever it is about.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson

from chalicelib.base import waits
from chalicelib.base.errors import InvalidRequest
from chalicelib.base.time_windows import HOUR_MS, hour_of
from chalicelib.events.contracts import Contracts
from chalicelib.notices.notices import Anomaly
from chalicelib.rollups.deltas import Delta, HourView, frame_id
from chalicelib.rollups.rollups import OTHER, Rollup, Rollups

EVERYTHING = "events"  # the topic of every metric
MAX_FRAME_BYTES = 32 * 1024  # API Gateway's limit of a frame; it also is what a message is billed by
MAX_SNAPSHOT_BYTES = 8 * 1024 * 1024  # some 256 frames, which take about three seconds to push
HEAD_BYTES = 512  # of a frame beside its pieces, or of a delta beside its metrics
MINUTE_BYTES = 22  # of `"2026-11-21T09:05Z":1,`, which is the shortest
PIECE_MINUTES = 200  # of a metric at a time: with 20 digits each, a quarter of a frame
MAX_NAME_LENGTH = 1000  # characters, which are 6 KB at most; the edge takes 128
MAX_MESSAGE_LENGTH = 1000  # of an error: it may quote what the client sent
SPANS = (1, 15, 60)  # minutes that a snapshot counts together where they are long ago: the first that lets it fit


def snapshot_frames(
    views: Iterable[HourView],
    *,
    topics: tuple[str, ...],
    since: str,
    as_of: str,
    now: int,
    contracts: Contracts,
    subscription: int = 1,
) -> list[bytes]:
    """Return the snapshot in as many parts as its size needs: totals of what is merged, and the open deltas by id.

    The totals of all parts add up. Where it would be too large, minutes before the last whole hour are counted together
    in spans. Raises InvalidRequest when it is too large even so.
    """
    hours = list(views)
    contents = _Contents.of(hours, topics, contracts)
    fine_since = hour_of(now * 1000 - HOUR_MS)
    absorbed = sorted(
        frame_id(view.hour, name)
        for view in hours
        for item in view.merged
        for name, merged_at in item.absorbed.items()
        if merged_at > now - waits.NAMED_MS // 1000
    )
    for span in SPANS:
        if contents.least_bytes(fine_since, span) > MAX_SNAPSHOT_BYTES:
            continue  # it need not be made to be known as too large
        pieces = _bounded(chain(contents.pieces(fine_since, span), (("absorbed", name) for name in absorbed)))
        if pieces is not None:
            break
    else:
        raise InvalidRequest(
            f"the snapshot has more than {MAX_SNAPSHOT_BYTES >> 20} MB, which is the limit: name fewer topics or a "
            "later since, or try again in a minute",
            code="snapshot_too_large",
        )
    parts = list(_parts(pieces, MAX_FRAME_BYTES - HEAD_BYTES)) or [[]]
    frames = []
    for number, part in enumerate(parts, 1):
        frame: dict[str, Any] = {
            "type": "snapshot",
            "subscription": subscription,
            "since": since,
            "as_of": as_of,
            "fine_since": f"{fine_since}:00:00Z",
            "span_minutes": span,
            "part": number,
            "parts": len(parts),
            "totals": {},
            "deltas": [piece for kind, piece in part if kind == "deltas"],
            "absorbed": [piece for kind, piece in part if kind == "absorbed"],
        }
        for kind, piece in part:
            if kind == "totals":
                _add(frame["totals"], piece)
        frames.append(frame)
    return [orjson.dumps(frame) for frame in frames]


def frames_of(parts: Iterable[bytes], subscription: int) -> Iterator[bytes]:
    """Parts of deltas, as `delta_parts` has them, as frames that each fit."""
    head = b'{"type":"delta","subscription":%d,"deltas":[' % subscription
    frame: list[bytes] = []
    size_bytes = 0
    for part in parts:
        if frame and size_bytes + len(part) + 1 > MAX_FRAME_BYTES - HEAD_BYTES:
            yield head + b",".join(frame) + b"]}"
            frame, size_bytes = [], 0
        frame.append(part)
        size_bytes += len(part) + 1
    if frame:
        yield head + b",".join(frame) + b"]}"


def delta_parts(delta: dict[str, Any]) -> list[bytes]:
    """A delta, encoded, in as many parts as its size needs; its counts and minutes are those of all parts added up."""
    return [orjson.dumps(part) for part in _delta_parts(delta)]


def anomaly_frame(anomaly: Anomaly) -> bytes:
    """Return an anomaly as dashboards get it; one that comes again has the same id."""
    return orjson.dumps({"type": "anomaly", "anomaly": anomaly.to_json()})


def error_frame(code: str, message: str) -> bytes:
    """Return what is wrong with a client's frame."""
    return orjson.dumps({"type": "error", "code": code, "message": message[:MAX_MESSAGE_LENGTH]})


def resync_frame(subscription: int) -> bytes:
    """Numbers that the subscription's snapshot holds were put right: only a new one has them."""
    return orjson.dumps({"type": "resync", "subscription": subscription})


def delta_json(delta: Delta, topics: tuple[str, ...], contracts: Contracts) -> dict[str, Any]:
    """Return one delta, as far as the topics go."""
    wanted = _wanted(delta.rollups, topics, contracts)
    return _delta_json(delta, _metrics(wanted, delta.hour, contracts, 1))


def is_wanted(event_type: str, topics: tuple[str, ...], contracts: Contracts) -> bool:
    """Return whether a topic stands for the event type: EVERYTHING, its metric or its own name."""
    return EVERYTHING in topics or event_type in topics or contracts.metric_of(event_type) in topics


def _wanted(rollups: Rollups, topics: tuple[str, ...], contracts: Contracts) -> Rollups:
    """As `is_wanted`, by the few topics rather than the many types."""
    if EVERYTHING in topics:
        return rollups
    types = {*topics, *(contract.event_type for contract in contracts if contract.metric in topics)}
    return Rollups({name: rollups[name] for name in sorted(types) if name in rollups})


def _name(event_type: str, contracts: Contracts) -> str:
    name = contracts.metric_of(event_type)
    return name if len(name) <= MAX_NAME_LENGTH else OTHER


def _metrics(rollups: Rollups, hour: str, contracts: Contracts, span: int) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for event_type, rollup in rollups.items():
        _add(metrics, {_name(event_type, contracts): _metric(rollup, hour, span)})
    return metrics


def _metric(rollup: Rollup, hour: str, span: int) -> dict[str, Any]:
    """Count and minutes, or spans of so many minutes under their first."""
    if span == 1:
        minutes = {_minute_name(hour, minute): count for minute, count in sorted(rollup.minutes.items())}
        return {"count": rollup.count, "minutes": minutes}
    spans: dict[int, int] = {}
    for minute, count in rollup.minutes.items():
        first = minute - minute % span
        spans[first] = spans.get(first, 0) + count
    return {"count": rollup.count, "minutes": {_minute_name(hour, first): spans[first] for first in sorted(spans)}}


@lru_cache(maxsize=16_384)  # of a day ten times over; a project's types share them
def _minute_name(hour: str, minute: int) -> str:
    return f"{hour}:{minute:02d}Z"


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a snapshot has of its topics: what is merged, by public name and hour, and the open deltas."""

    merged: dict[str, list[tuple[str, Rollup]]]
    deltas: list[tuple[Delta, Rollups]]
    contracts: Contracts

    @classmethod
    def of(cls, hours: Iterable[HourView], topics: tuple[str, ...], contracts: Contracts) -> "_Contents":
        merged: dict[str, list[tuple[str, Rollup]]] = {}
        deltas: list[tuple[Delta, Rollups]] = []
        for view in hours:
            for item in view.merged:
                for event_type, rollup in _wanted(item.rollups, topics, contracts).items():
                    merged.setdefault(_name(event_type, contracts), []).append((view.hour, rollup))
            deltas += [(delta, _wanted(delta.rollups, topics, contracts)) for delta in view.deltas]
        return cls(merged, [(delta, wanted) for delta, wanted in deltas if wanted], contracts)

    def least_bytes(self, fine_since: str, span: int) -> int:
        """No snapshot of this has fewer."""
        kept = chain(
            ((hour, rollup) for rollups in self.merged.values() for hour, rollup in rollups),
            ((delta.hour, rollup) for delta, wanted in self.deltas for rollup in wanted.values()),
        )
        minutes = (
            len(rollup.minutes) if hour >= fine_since else -(-len(rollup.minutes) // span) for hour, rollup in kept
        )
        return sum(minutes) * MINUTE_BYTES

    def pieces(self, fine_since: str, span: int) -> Iterator[tuple[str, Any]]:
        """Yield all of it in pieces that each fit a frame; before `fine_since`, spans in place of minutes."""
        for name, rollups in self.merged.items():  # one at a time: all minutes of all types would not fit in memory
            total: dict[str, dict[str, Any]] = {}
            for hour, rollup in rollups:
                _add(total, {name: _metric(rollup, hour, 1 if hour >= fine_since else span)})
            yield from (("totals", piece) for piece in _pieces(total))
        for delta, wanted in self.deltas:
            metrics = _metrics(wanted, delta.hour, self.contracts, 1 if delta.hour >= fine_since else span)
            yield from (("deltas", part) for part in _delta_parts(_delta_json(delta, metrics)))


def _bounded(pieces: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]] | None:
    """Return the pieces, or None when they are too large together, of which no more than fits is held."""
    held: list[tuple[str, Any]] = []
    size_bytes = 0
    for kind, piece in pieces:
        size_bytes += len(orjson.dumps(piece)) + 1
        if size_bytes > MAX_SNAPSHOT_BYTES:
            return None
        held.append((kind, piece))
    return held


def _delta_json(delta: Delta, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"id": delta.frame_id, "hour": delta.hour, "metrics": metrics}


def _delta_parts(delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the delta, whole where it fits beside nothing else."""
    if len(orjson.dumps(delta)) <= MAX_FRAME_BYTES - 2 * HEAD_BYTES:
        yield {**delta, "part": 1, "parts": 1}
        return
    pieces = (("metrics", piece) for piece in _pieces(delta["metrics"]))
    parts = list(_parts(pieces, MAX_FRAME_BYTES - 2 * HEAD_BYTES))
    for number, part in enumerate(parts, 1):
        metrics: dict[str, dict[str, Any]] = {}
        for _, piece in part:
            _add(metrics, piece)
        yield {**delta, "part": number, "parts": len(parts), "metrics": metrics}


def _pieces(metrics: dict[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the metrics in pieces that each fit a frame and that add up to them."""
    for name, metric in metrics.items():
        minutes = list(metric["minutes"].items())
        without_minute = metric["count"] - sum(metric["minutes"].values())
        for first in range(0, max(len(minutes), 1), PIECE_MINUTES):
            piece = dict(minutes[first : first + PIECE_MINUTES])
            count = sum(piece.values()) + (without_minute if first == 0 else 0)
            yield {name: {"count": count, "minutes": piece}}


def _parts(pieces: Iterable[tuple[str, Any]], room_bytes: int) -> Iterator[list[tuple[str, Any]]]:
    """Yield the pieces, in order, in parts that each fit."""
    part: list[tuple[str, Any]] = []
    size_bytes = 0
    for kind, piece in pieces:
        piece_bytes = len(orjson.dumps(piece)) + 1
        if part and size_bytes + piece_bytes > room_bytes:
            yield part
            part, size_bytes = [], 0
        part.append((kind, piece))
        size_bytes += piece_bytes
    if part:
        yield part


def _add(totals: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    for name, metric in more.items():
        total = totals.setdefault(name, {"count": 0, "minutes": {}})
        total["count"] += metric["count"]
        minutes: dict[str, int] = total["minutes"]
        if minutes.keys().isdisjoint(metric["minutes"]):
            minutes.update(metric["minutes"])
            continue
        for minute, count in metric["minutes"].items():
            minutes[minute] = minutes.get(minute, 0) + count
