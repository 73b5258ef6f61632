"""What dashboards are sent: snapshots, deltas, and the rule by which both add up to exact numbers.

A client's number is the snapshot's totals plus, by id, the latest delta it got, except ids named as absorbed.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta, HourView, frame_id
from chalicelib.domain.notices import Anomaly
from chalicelib.domain.rollups import Rollups, merge_all

EVERYTHING = "events"  # the topic of every metric
MAX_FRAME_BYTES = 100_000  # API Gateway allows 128 KB
PIECE_MINUTES = 500  # of a metric's totals, at about 30 bytes each; a day of minutes fills a third of a frame
NAMED_SECONDS = 600  # a snapshot names what was absorbed in this time
STALE_SECONDS = 480  # an older delta may be in a snapshot that does not name it, so it is not pushed: see live


def snapshot_frames(
    views: Iterable[HourView], *, topics: tuple[str, ...], since: str, as_of: str, now: int, contracts: Contracts
) -> list[bytes]:
    """The snapshot in as many parts as its size needs: totals of what is merged, and the open deltas by id.

    The totals of all parts add up.
    """
    hours = list(views)
    totals: dict[str, dict[str, Any]] = {}
    for view in hours:
        _add(totals, metrics_of(merge_all(item.rollups for item in view.merged), view.hour, topics, contracts))
    pieces: list[tuple[str, Any]] = [("totals", piece) for piece in _pieces(totals)]
    pieces += [("deltas", delta_json(delta, topics, contracts)) for view in hours for delta in view.deltas]
    absorbed = (
        frame_id(view.hour, name)
        for view in hours
        for item in view.merged
        for name, merged_at in item.absorbed.items()
        if merged_at > now - NAMED_SECONDS
    )
    pieces += [("absorbed", name) for name in sorted(absorbed)]
    parts = list(_parts(pieces)) or [[]]
    frames = []
    for number, part in enumerate(parts, 1):
        frame: dict[str, Any] = {
            "type": "snapshot",
            "since": since,
            "as_of": as_of,
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


def _pieces(totals: dict[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """The totals in pieces that each fit a frame and that add up to them."""
    for name, total in totals.items():
        minutes = list(total["minutes"].items())
        for first in range(0, len(minutes), PIECE_MINUTES):
            piece = dict(minutes[first : first + PIECE_MINUTES])
            yield {name: {"count": sum(piece.values()), "minutes": piece}}


def delta_frames(deltas: Iterable[dict[str, Any]]) -> list[bytes]:
    """Deltas as frames that each fit."""
    return [orjson.dumps({"type": "delta", "deltas": part}) for part in _parts(list(deltas))]


def anomaly_frame(anomaly: Anomaly) -> bytes:
    """An anomaly as dashboards get it; one that comes again has the same id."""
    return orjson.dumps({"type": "anomaly", "anomaly": anomaly.to_json()})


def delta_json(delta: Delta, topics: tuple[str, ...], contracts: Contracts) -> dict[str, Any]:
    """One delta, as far as the topics go; without its minutes where it would not fit a frame."""
    metrics = metrics_of(delta.rollups, delta.hour, topics, contracts)
    if len(orjson.dumps(metrics)) > MAX_FRAME_BYTES:
        metrics = {name: {"count": metric["count"], "minutes": {}} for name, metric in metrics.items()}
    return {"id": delta.frame_id, "hour": delta.hour, "metrics": metrics}


def metrics_of(rollups: Rollups, hour: str, topics: tuple[str, ...], contracts: Contracts) -> dict[str, dict[str, Any]]:
    """Count and minutes by a metric's public name."""
    metrics = {}
    for event_type, rollup in rollups.items():
        name = contracts.metric_of(event_type)
        if EVERYTHING in topics or name in topics or event_type in topics:
            minutes = {f"{hour}:{minute:02d}Z": count for minute, count in sorted(rollup.minutes.items())}
            metrics[name] = {"count": rollup.count, "minutes": minutes}
    return metrics


def _add(totals: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    for name, metric in more.items():
        total = totals.setdefault(name, {"count": 0, "minutes": {}})
        total["count"] += metric["count"]
        for minute, count in metric["minutes"].items():
            total["minutes"][minute] = total["minutes"].get(minute, 0) + count


def _parts(pieces: list[Any]) -> Iterator[list[Any]]:
    """The pieces, in order, in parts that each fit a frame."""
    part: list[Any] = []
    size_bytes = 0
    for piece in pieces:
        piece_bytes = len(orjson.dumps(piece))
        if part and size_bytes + piece_bytes > MAX_FRAME_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(piece)
        size_bytes += piece_bytes
    if part:
        yield part
