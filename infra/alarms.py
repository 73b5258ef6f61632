"""Alarms: those of a function, for infra/functions.py, and those of a whole stage.

docs/operations.md says of each alarm what it means and what to do.
"""

from dataclasses import dataclass

MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
STAGE = (("stage", "${Stage}"),)  # the dimension of the app's own metrics: chalicelib/base/metrics.py
OURS = "Tidemark"
MACHINES = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine"


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that rings when the metric has reached `threshold` in `periods` periods in a row.

    In a description or a dimension, CloudFormation fills in `${Stage}`. `resource` is the alarm's name in the template,
    where that differs from its own name.
    """

    name: str
    description: str
    namespace: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]
    statistic: str
    period_seconds: int = MINUTE_SECONDS
    periods: int = 1
    threshold: int = 1
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Fails:
    """The function's invocations fail in three minutes in a row, or, with `seconds`, once in so many seconds.

    `name` and `description` are the alarm's own, where it is not called FUNCTION-errors.
    """

    name: str = ""
    description: str = ""
    seconds: int = 0
    resource: str = ""

    def alarm(self, function: str) -> Alarm:
        """Return the alarm of this function."""
        usual = "in an hour" if self.seconds == HOUR_SECONDS else "in three minutes in a row"
        return Alarm(
            self.name or f"{function}-errors",
            self.description or f"`{function}` fails {usual}",
            "AWS/Lambda",
            "Errors",
            (("FunctionName", f"tidemark-${{Stage}}-{function}"),),
            "Sum",
            period_seconds=self.seconds or MINUTE_SECONDS,
            periods=1 if self.seconds else 3,
            resource=self.resource,
        )


@dataclass(frozen=True, slots=True)
class Late:
    """The function is behind its stream by so many minutes; `effect` says who notices what."""

    minutes: int
    effect: str
    stream: str = "its stream"

    def alarm(self, function: str) -> Alarm:
        """Return the alarm of this function."""
        return Alarm(
            f"{function}-age",
            f"`{function}` is behind {self.stream}; {self.effect}",
            "AWS/Lambda",
            "IteratorAge",
            (("FunctionName", f"tidemark-${{Stage}}-{function}"),),
            "Maximum",
            periods=3,
            threshold=self.minutes * MINUTE_SECONDS * 1000,  # IteratorAge is in milliseconds
        )


def counted(name: str, description: str, metric: str, period_seconds: int) -> Alarm:
    """Return the alarm of a metric of our own that counts what must not happen."""
    return Alarm(name, description, OURS, metric, STAGE, "Sum", period_seconds=period_seconds)


def stands(name: str, description: str, metric: str) -> Alarm:
    """Return the alarm of a metric of our own that `audit` logs each minute, of what must not stand for three."""
    return Alarm(name, description, OURS, metric, STAGE, "Maximum", periods=3)


def old(name: str, description: str, metric: str, *, longest_seconds: int, period_seconds: int) -> Alarm:
    """Return the alarm of a metric of our own that tells for how many seconds something has waited."""
    return Alarm(
        name, description, OURS, metric, STAGE, "Maximum", period_seconds=period_seconds, threshold=longest_seconds
    )


def workflow_fails(workflow: str, description: str) -> Alarm:
    """Return the alarm of executions of a workflow that fail."""
    dimensions = (("StateMachineArn", f"{MACHINES}:tidemark-${{Stage}}-{workflow}"),)
    return Alarm(
        f"{workflow}-failed", description, "AWS/States", "ExecutionsFailed", dimensions, "Sum", period_seconds=300
    )


STAGE_ALARMS = (
    Alarm(
        "dead-letters",
        "Messages with acknowledged events are in the dead-letter queue",
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        (("QueueName", "tidemark-${Stage}-events-dlq"),),
        "Maximum",
    ),
    Alarm(
        "queue-age",
        "The oldest message has waited for 5 minutes and `process` does not keep up",
        "AWS/SQS",
        "ApproximateAgeOfOldestMessage",
        (("QueueName", "tidemark-${Stage}-events"),),
        "Maximum",
        periods=5,
        threshold=300,
    ),
    Alarm(
        "api-errors",
        "The REST API answers 5xx: five in a minute, for three minutes",
        "AWS/ApiGateway",
        "5XXError",
        (("ApiName", "tidemark"), ("Stage", "${Stage}")),
        "Sum",
        periods=3,
        threshold=5,
    ),
    workflow_fails("hourly", "The hourly workflow has failed: an hour is not closed, not judged, or not told of"),
    workflow_fails("import", "A file of history is not imported"),
    counted("deltas-unreadable", "Live numbers could not be shown to dashboards", "DeltasUnreadable", 300),
    counted("numbers-drifted", "Closed numbers were not what the lake says", "NumbersDrifted", HOUR_SECONDS),
    counted(
        "events-drift", "An hour was closed although live numbers and its file differ", "EventsDrift", HOUR_SECONDS
    ),
    counted(
        "events-rearchived",
        "The lake lacked events, which were put back from the hot store",
        "EventsRearchived",
        HOUR_SECONDS,
    ),
    counted(
        "hours-not-rearchived",
        "The lake lacks events of an hour, and the function cannot put them back",
        "HoursNotRearchived",
        HOUR_SECONDS,
    ),
    old(
        "lake-dirty",
        "An hour of the lake waits for two hours to be consolidated",
        "LakeOldestDirtySeconds",
        longest_seconds=2 * HOUR_SECONDS,
        period_seconds=HOUR_SECONDS,  # `consolidate` runs twice an hour
    ),
    old(
        "erasure-overdue",
        "An erasure is not done after a day",
        "ErasureOldestSeconds",
        longest_seconds=24 * HOUR_SECONDS,
        period_seconds=900,  # `erase` runs every five minutes, and logs it when there is one
    ),
    stands("events-missing", "Events that were acknowledged are not accounted for", "EventsMissing"),
    stands("events-surplus", "More events are accounted for than were acknowledged", "EventsSurplus"),
    stands("spilled", "Spilled messages cannot be brought back to the queue", "MessagesSpilled"),
)
