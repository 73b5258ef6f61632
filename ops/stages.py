"""What the commands share: the stage they work on, the limits they take, a question before harm, tables or JSON."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from chalicelib.access.quotas import Limits
from chalicelib.base.data_bucket import DataBucket
from chalicelib.events.contracts import Contracts
from chalicelib.lake_stages import LakeStages
from chalicelib.settings import MissingSetting, Settings
from chalicelib.stages import Stages
from chalicelib.stores import Stores
from infra.project import ROOT, STAGES, OperatorError, read_config

LOCAL = "dev"
REMOVE = "none"
# Why an hour is not closed that was just tried.
WAITING = (
    "live numbers and the lake do not hold the same yet, as while a consumer of the stream is behind; the next run of "
    "the hourly workflow tries again"
)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that works on a stage."""
    parser.add_argument("--stage", required=True, choices=(LOCAL, *STAGES), help="dev is the local cloud")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_yes(parser: argparse.ArgumentParser) -> None:
    """For commands that end something."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_limits(parser: argparse.ArgumentParser, *, removable: bool = False) -> None:
    """Limits in events; `none` removes one where there may be one already."""
    none = f"; {REMOVE!r} removes it" if removable else ""
    quantities = {
        "--rate": (_rate, "events a second, over time" + none),
        "--burst": (_count, "events at once; without it 10 seconds of the rate, and 2,500 at least" + none),
        "--monthly-quota": (_count, "events a month (UTC)" + none),
    }
    for name, (read, what) in quantities.items():
        known = (lambda text, read=read: None if text == REMOVE else read(text)) if removable else read
        parser.add_argument(name, type=known, default=argparse.SUPPRESS, metavar="N", help=what)


def given_limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the limits on the command line, by field of Limits; None is one to remove."""
    names = {"rate": "rate_per_second", "burst": "burst", "monthly_quota": "monthly_quota"}
    return {field: getattr(arguments, name) for name, field in names.items() if hasattr(arguments, name)}


def new_limits(arguments: argparse.Namespace) -> Limits:
    """Return the limits of something new; raises OperatorError."""
    limits = Limits(**given_limits(arguments))
    if limits.burst is not None and limits.rate_per_second is None:
        raise OperatorError(f"a burst of {limits.burst} needs a rate too: --rate")
    return limits


def environment(stage: str) -> dict[str, str]:
    """Return the stage's environment in .chalice/config.json."""
    found: dict[str, str] = read_config()["stages"][stage]["environment_variables"]
    return found


@cache
def client(stage: str, service: str) -> Any:
    """A client with the caller's own credentials and region; of the local cloud by the profile that its app uses.

    That profile starts the cloud when none runs, for as long as this process lives.
    """
    config = Config(retries={"mode": "standard", "max_attempts": 8})
    variables = environment(stage)
    if "AWS_PROFILE" not in variables:
        return boto3.client(service, config=config)
    session = botocore.session.Session(profile=variables["AWS_PROFILE"])
    session.set_config_variable("config_file", str(ROOT / variables["AWS_CONFIG_FILE"]))
    local = config.merge(Config(proxies={}))  # none of the environment stands between here and this machine
    region = variables["AWS_DEFAULT_REGION"]
    return boto3.Session(botocore_session=session, region_name=region).client(service, config=local)


class StageStores(Stores):
    """A stage's stores, with the caller's own credentials.

    Tables have fixed names; with `whole`, all else must be recorded too, or OperatorError is raised.
    """

    def __init__(self, stage: str, *, whole: bool = False) -> None:
        variables = environment(stage)
        try:
            settings = Settings.from_environment(variables if whole else _Recorded(variables))
        except MissingSetting as error:
            raise OperatorError(str(error)) from error
        super().__init__(settings, partial(client, stage))

    @cached_property
    def bucket(self) -> DataBucket:
        """The data bucket: recorded, or, where this checkout never deployed, by the account's number."""
        found = self.settings
        if found.data_bucket:
            return DataBucket(self.client("s3"), found.data_bucket)
        account = self.client("sts").get_caller_identity()["Account"]
        return DataBucket(self.client("s3"), f"tidemark-{found.stage}-data-{account}")


class _Recorded(dict[str, str]):
    """An environment of which some is not recorded, in a checkout that never deployed."""

    def __missing__(self, _name: str) -> str:
        return ""


@cache
def contracts() -> Contracts:
    """Return those of this checkout."""
    return Contracts.load(ROOT / "schemas")


def lake_stages(stage: str, *, whole: bool = False) -> LakeStages:
    """Return what works on the stage's lake, for as long as it takes; `whole` as of StageStores."""
    stores = StageStores(stage, whole=whole)
    stages = Stages(stores, contracts)
    return LakeStages(stores, contracts, lambda key: stages.collector.reinject(key), unhurried=True)


def confirm(arguments: argparse.Namespace, question: str) -> None:
    """Go on only when --yes or the operator says so; raises OperatorError."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError(f"{question} Standard input is no terminal; confirm with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise OperatorError("nothing was changed")


def show(arguments: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same columns, as a table; with --json as they are."""
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("none")
        return
    lines = [[*rows[0]], *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def show_one(arguments: argparse.Namespace, row: Mapping[str, Any]) -> None:
    """One thing, a line for each field; with --json as it is."""
    if arguments.json:
        print(json.dumps(row, indent=2))
        return
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:<{width}}  {_text(value)}".rstrip())


def described(limits: Limits) -> dict[str, Any]:
    """Return the columns of limits."""
    bucket = limits.bucket
    return {
        "rate": limits.rate_per_second,
        "burst": bucket.burst if bucket else None,
        "monthly_quota": limits.monthly_quota,
    }


def _text(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case list():
            return ",".join(value)
        case int() | float():
            return f"{value:,}"
        case _:
            return str(value)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.001 <= rate <= 1e6 or math.isnan(rate):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0.001 to 1,000,000 events a second")
    return rate


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events from 1 to 1,000,000,000,000")
    return int(text)
