"""`python -m ops COMMAND`: each command is a module with `add_arguments(parser)` and `run(arguments)`."""

import argparse
import os
import sys
from types import ModuleType

from infra import project
from ops import (
    consolidate,
    erasures,
    export,
    imports,
    keys,
    projects,
    rearchive,
    rebuild,
    reconcile,
    redrive,
    unreadable,
)

COMMANDS: dict[str, ModuleType] = {
    "projects": projects,
    "keys": keys,
    "redrive": redrive,
    "list-unreadable": unreadable,
    "consolidate": consolidate,
    "import": imports,
    "reconcile": reconcile,
    "rearchive": rearchive,
    "rebuild": rebuild,
    "export": export,
    "erasures": erasures,
}


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m ops",
        description="Operates a stage of Tidemark; see docs/operations.md.",
        epilog="`python -m ops COMMAND --help` has each command's own help, with examples.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        what = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(
            name, help=what, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(words: list[str]) -> int:
    """Run the command that the words name; returns the exit code."""
    arguments = parser().parse_args(words)
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    try:
        project.run(lambda: main(sys.argv[1:]))
    except SystemExit as done:
        sys.stdout.flush()
        sys.stderr.flush()
        # All is done; pyarrow's threads now and then abort a process that takes itself apart: apache/arrow#34314.
        os._exit(done.code if isinstance(done.code, int) else bool(done.code))
