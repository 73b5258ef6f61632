"""The hours that a command works on: one, or those of a range."""

import argparse
import time
from datetime import UTC, datetime

from chalicelib.base.time_windows import DAY_MS, HOUR_MS, day_start_ms, hour_start_ms, hours_between
from infra.project import OperatorError


def add_hours(parser: argparse.ArgumentParser) -> None:
    """`--project` with `--hour`, or with `--from` and `--to`."""
    parser.add_argument("--project", required=True, help="whose hours")
    parser.add_argument("--hour", type=read_hour, metavar="HOUR", help="this hour, UTC, such as 2026-11-21T10")
    add_range(parser)


def add_range(parser: argparse.ArgumentParser) -> None:
    """`--from` and `--to`."""
    parser.add_argument("--from", dest="first", type=_start, metavar="TIME", help="from this hour or day (UTC) on")
    parser.add_argument("--to", dest="last", type=_end, metavar="TIME", help="up to this hour or day, included")


def chosen_hours(arguments: argparse.Namespace) -> list[str]:
    """Return the hours of the command line that are over, in order; raises OperatorError when there are none."""
    if bool(arguments.hour) == (arguments.first is not None and arguments.last is not None):
        raise OperatorError("name either --hour, or --from and --to")
    over_ms = int(time.time() * 1000) // HOUR_MS * HOUR_MS
    first_ms = hour_start_ms(arguments.hour) if arguments.hour else arguments.first
    end_ms = first_ms + HOUR_MS if arguments.hour else arguments.last
    hours = hours_between(first_ms, min(end_ms, over_ms))
    if not hours:
        raise OperatorError("no hour of that range is over")
    return hours


def read_hour(text: str) -> str:
    """An hour as it is written."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC).strftime("%Y-%m-%dT%H")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an hour such as 2026-11-21T10") from None


def _start(text: str) -> int:
    return _span(text)[0]


def _end(text: str) -> int:
    return _span(text)[1]


def _span(text: str) -> tuple[int, int]:
    """Return the half-open range of an hour or a day, in Unix milliseconds."""
    is_day = len(text) == len("2026-11-21")
    try:
        start_ms = day_start_ms(text) if is_day else hour_start_ms(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a day such as 2026-11-21 nor an hour such as 2026-11-21T10"
        ) from None
    return start_ms, start_ms + (DAY_MS if is_day else HOUR_MS)
