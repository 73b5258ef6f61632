"""What dashboards are sent: snapshots, deltas, and the rule by which both add up to exact numbers.

A client's number is the snapshot's totals plus, by id, the latest delta it got, except ids named as absorbed.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from chalicelib.domain.contracts import Contracts
from chalicelib.domain.deltas import Delta, HourView, frame_id
from chalicelib.domain.rollups import Rollups, merge_all

EVERYTHING = "events"  # the topic of every metric
MAX_FRAME_BYTES = 100_000  # API Gateway allows 128 KB
NAMED_SECONDS = 600  # a snapshot names what was absorbed in this time
STALE_SECONDS = 480  # an older delta may be in a snapshot that does not name it, so it is not pushed: see live


def snapshot_frames(
    views: Iterable[HourView], *, topics: tuple[str, ...], since: str, as_of: str, now: int, contracts: Contracts
) -> list[bytes]:
    """The snapshot in as many parts as its size needs: totals of what is merged, and the open deltas by id."""
    hours = list(views)
    totals: dict[str, dict[str, Any]] = {}
    for view in hours:
        _add(totals, metrics_of(merge_all(item.rollups for item in view.merged), view.hour, topics, contracts))
    deltas = [delta_json(delta, topics, contracts) for view in hours for delta in view.deltas]
    absorbed = sorted(
        frame_id(view.hour, name)
        for view in hours
        for item in view.merged
        if item.merged_at > now - NAMED_SECONDS
        for name in item.absorbed
    )
    parts = list(_parts(deltas)) or [[]]
    frames = []
    for number, part in enumerate(parts, 1):
        frame: dict[str, Any] = {
            "type": "snapshot",
            "since": since,
            "as_of": as_of,
            "part": number,
            "parts": len(parts),
        }
        frame |= {"totals": totals if number == 1 else {}, "deltas": part, "absorbed": []}
        frames.append(frame)
    frames[0]["absorbed"] = absorbed
    return [orjson.dumps(frame) for frame in frames]


def delta_frames(deltas: Iterable[dict[str, Any]]) -> list[bytes]:
    """Deltas as frames that each fit."""
    return [orjson.dumps({"type": "delta", "deltas": part}) for part in _parts(list(deltas))]


def delta_json(delta: Delta, topics: tuple[str, ...], contracts: Contracts) -> dict[str, Any]:
    """One delta, as far as the topics go."""
    return {
        "id": delta.frame_id,
        "hour": delta.hour,
        "metrics": metrics_of(delta.rollups, delta.hour, topics, contracts),
    }


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


def _parts(deltas: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size_bytes = 0
    for delta in deltas:
        delta_bytes = len(orjson.dumps(delta))
        if part and size_bytes + delta_bytes > MAX_FRAME_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(delta)
        size_bytes += delta_bytes
    if part:
        yield part
