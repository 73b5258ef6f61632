"""`python -m ops COMMAND`: each command is a module with `add_arguments(parser)` and `run(arguments)`."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from infra import project
from ops import redrive, unreadable

COMMANDS: dict[str, ModuleType] = {"redrive": redrive, "unreadable": unreadable}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m ops", description="Operates a stage of Tidemark; see docs/operations.md."
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(words: Sequence[str]) -> int:
    """Run the command that the words name; returns the exit code."""
    arguments = parser().parse_args(words)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    project.run(lambda: main(sys.argv[1:]))
