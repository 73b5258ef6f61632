"""Every operational metric: its name, its unit and what it means.

A metric is a line of the log in CloudWatch's embedded metric format, which costs no call of its own
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
"""

import logging
from collections.abc import Mapping
from typing import Any

NAMESPACE = "Tidemark"
# What there is of everything: any number is a good one.
QUANTITIES = {
    "EventsReceived": ("Count", "events of this hour and the one before that were acknowledged"),
    "EventsStored": ("Count", "of them: in the events table, and counted"),
    "EventsDuplicate": ("Count", "of them: sent again, and recognised"),
    "EventsQuarantined": ("Count", "of them: rejected, and kept with the reason"),
    "EventsErased": ("Count", "of them: dropped, because their user is erased"),
    "EventsInFlight": ("Count", "of them: on their way, in the queue, the spill or a stream"),
    "TraitsNotLearned": (
        "Count",
        "profiles of users that were not brought up to date, for others write them all the time",
    ),
    "LakeRowsConsolidated": ("Count", "rows of the lake's hours that a run of `consolidate` wrote anew"),
    "LakeDuplicatesRemoved": ("Count", "rows that it left out, because the same event is there already"),
    "LakeFilesMerged": ("Count", "files that it read for that"),
    "HoursReconciled": ("Count", "closed hours that a run of `reconcile` compared with the lake"),
}
# Zero, or for those in seconds small, unless something is broken: each has an alarm in infra/alarms.py.
INVARIANTS = {
    "EventsMissing": ("Count", "received in an hour that ended fifteen minutes ago or more, and still in flight"),
    "EventsSurplus": ("Count", "counted in such an hour more often than received: it makes up for nothing missing"),
    "MessagesSpilled": ("Count", "messages that lie in `spill/` for more than five minutes"),
    "EventsDrift": ("Count", "events by which the live numbers of an hour differ from its file for good"),
    "EventsRearchived": ("Count", "events that the lake lacked, and that were put back from the hot store"),
    "HoursNotRearchived": ("Count", "hours of which the lake lacks events, in a hot store too large for the function"),
    "NumbersDrifted": ("Count", "numbers of closed hours, and of their days, that were not what the lake says"),
    "LakeOldestDirtySeconds": ("Seconds", "how long the oldest hour has been waiting for a run after it was due"),
    "DeltasUnreadable": ("Count", "deltas that could not be shown to dashboards, which get their numbers later"),
    "ErasureOldestSeconds": (
        "Seconds",
        "how long ago the oldest erasure that is not done was asked for, if there is one",
    ),
}
METRICS = {**QUANTITIES, **INVARIANTS}

log = logging.getLogger(__name__)


def emit(stage: str, now_ms: int, values: Mapping[str, float]) -> None:
    """Log the values under their names; raises KeyError for a name that is in neither table."""
    metrics = [{"Name": name, "Unit": METRICS[name][0]} for name in values]
    described: dict[str, Any] = {
        "Timestamp": now_ms,
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [["stage"]], "Metrics": metrics}],
    }
    log.info("metrics", extra={"_aws": described, "stage": stage, **values})
