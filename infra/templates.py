"""What follows from infra/functions.py in the two CloudFormation templates.

monitoring.yaml is written whole: log groups and alarms. In template.yaml, each list below a line that ends with
`# tasks …` is written: which functions the workflows call.
"""

import json
import re

from infra.alarms import Alarm
from infra.event_sources import Task
from infra.functions import FUNCTIONS, Function, all_alarms

RETENTION_DAYS = 30
LAMBDA = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:"
MONITORING_HEAD = """\
# Written by `make functions` from infra/functions.py and infra/alarms.py.
# What watches the functions: their log groups and every alarm. A stack of its own, made after template.yaml's,
# because it names functions (as Chalice does) and nothing depends on it.
AWSTemplateFormatVersion: "2010-09-09"
Description: "Tidemark: log groups and alarms of one stage"

Parameters:
  Stage:
    Type: String
    AllowedValues: [staging, prod]
  AlertsTopicArn:
    Type: String
    Description: Output AlertsTopicArn of the stack tidemark-STAGE

Resources:
  # Log groups, made before Lambda would make them without an end; Chalice names its functions so.
"""
ALARMS_HEAD = """\

  # Alarms; docs/operations.md says what each one means and what to do.
"""


def monitoring() -> str:
    """Return the text of infra/monitoring.yaml."""
    groups = "".join(map(_log_group, FUNCTIONS))
    return MONITORING_HEAD + groups + ALARMS_HEAD + "".join(map(_alarm, all_alarms()))


def with_tasks(template: str) -> str:
    """Return the text of infra/template.yaml with the workflows' functions as the table has them."""
    tasks = [each for each in FUNCTIONS if isinstance(each.trigger, Task)]
    text = _replaced(template, "Resource: # tasks of all workflows", [f"- {_arn(each)}" for each in tasks])
    for workflow in sorted({each.trigger.workflow for each in tasks if isinstance(each.trigger, Task)}):
        own = [each for each in tasks if each.trigger == Task(workflow)]
        lines = [f"{capitals(each.name)}: {_arn(each)}" for each in own]
        text = _replaced(text, f"DefinitionSubstitutions: # tasks of {workflow}", lines)
    return text


def capitals(name: str) -> str:
    """Return a name as CloudFormation's are written: ImportStore of import_store."""
    return "".join(word.capitalize() for word in re.split("[-_]", name))


def _replaced(text: str, head: str, lines: list[str]) -> str:
    """Replace what is indented below the line that begins with `head`."""
    found = re.search(rf"^( *){re.escape(head)}\b.*\n((?:\1 +.*\n)*)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"infra/template.yaml has no line {head!r}")
    return text[: found.start(2)] + "".join(f"{found[1]}  {line}\n" for line in lines) + text[found.end(2) :]


def _arn(function: Function) -> str:
    return _text(LAMBDA + function.lambda_name("${Stage}"))


def _log_group(function: Function) -> str:
    name = _text("/aws/lambda/" + function.lambda_name("${Stage}"))
    return f"""\
  {capitals(function.name)}Logs:
    Type: AWS::Logs::LogGroup
    DeletionPolicy: Delete
    UpdateReplacePolicy: Delete
    Properties: {{LogGroupName: {name}, RetentionInDays: {RETENTION_DAYS}}}
"""


def _alarm(alarm: Alarm) -> str:
    dimensions = ", ".join(f"{{Name: {name}, Value: {_text(value)}}}" for name, value in alarm.dimensions)
    return f"""\
  {alarm.resource or f"{capitals(alarm.name)}Alarm"}:
    Type: AWS::CloudWatch::Alarm
    Properties:
      AlarmName: !Sub tidemark-${{Stage}}-{alarm.name}
      AlarmDescription: {json.dumps(alarm.description, ensure_ascii=False)}
      Namespace: {alarm.namespace}
      MetricName: {alarm.metric}
      Dimensions: [{dimensions}]
      Statistic: {alarm.statistic}
      Period: {alarm.period_seconds}
      EvaluationPeriods: {alarm.periods}
      Threshold: {alarm.threshold}
      ComparisonOperator: GreaterThanOrEqualToThreshold
      TreatMissingData: notBreaching
      AlarmActions: [!Ref AlertsTopicArn]
      OKActions: [!Ref AlertsTopicArn]
"""


def _text(value: str) -> str:
    """Return a string in YAML, with what CloudFormation fills in."""
    if value == "${Stage}":
        return "!Ref Stage"
    return f'!Sub "{value}"' if "${" in value else value
