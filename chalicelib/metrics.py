"""Every operational metric: its name, its unit and what it means.

A metric is a line of the log in CloudWatch's embedded metric format, which costs no call of its own
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
"""

import logging
from collections.abc import Mapping
from typing import Any

NAMESPACE = "Tidemark"
METRICS = {
    "EventsReceived": ("Count", "events of this hour and the one before that were acknowledged"),
    "EventsStored": ("Count", "of them: in the events table, and counted"),
    "EventsDuplicate": ("Count", "of them: sent again, and recognised"),
    "EventsQuarantined": ("Count", "of them: rejected, and kept with the reason"),
    "EventsInFlight": ("Count", "of them: on their way, in the queue, the spill or a stream"),
    "EventsMissing": ("Count", "received in an hour that ended fifteen minutes ago or more, and still in flight"),
    "EventsSurplus": ("Count", "counted once too often in such an hour: a message came again after its repetition"),
    "UsersNotLearned": (
        "Count",
        "links and profiles of users that were not kept, because others write them all the time",
    ),
    "MessagesSpilled": ("Count", "messages that lie in `spill/` for more than five minutes"),
    "LakeRowsConsolidated": ("Count", "rows of the lake's hours that a run of `consolidate` wrote anew"),
    "LakeDuplicatesRemoved": ("Count", "rows that it left out, because the same event is there already"),
    "LakeFilesMerged": ("Count", "files that it read for that"),
    "EventsDrift": ("Count", "events by which the live numbers of an hour differed from its file when it was closed"),
    "HoursReconciled": ("Count", "closed hours that a run of `reconcile` compared with the lake"),
    "NumbersDrifted": ("Count", "numbers of them, and of their days, that were not what the lake says"),
    "LakeOldestDirtySeconds": ("Seconds", "how long the oldest hour has been waiting for a run after it was due"),
    "ErasureOldestSeconds": (
        "Seconds",
        "how long ago the oldest erasure that is not done was asked for, if there is one",
    ),
}

log = logging.getLogger(__name__)


def emit(stage: str, now_ms: int, values: Mapping[str, float]) -> None:
    """Log the values under their names; raises KeyError for a name that is not in METRICS."""
    metrics = [{"Name": name, "Unit": METRICS[name][0]} for name in values]
    described: dict[str, Any] = {
        "Timestamp": now_ms,
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [["stage"]], "Metrics": metrics}],
    }
    log.info("metrics", extra={"_aws": described, "stage": stage, **values})
