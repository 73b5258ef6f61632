"""Tells the supervisor which of the app's source files changed."""

import threading
from collections.abc import Callable
from pathlib import Path

import watchfiles

from localcloud.places import PROJECT

FOLDERS = ("chalicelib", "schemas", "dashboard")  # with all below them
FILES = ("app.py", ".chalice/config.json", "infra/triggers.json")
SUFFIXES = (".py", ".json", ".html", ".js", ".css")


def watch_sources(on_change: Callable[[list[str]], None]) -> None:
    """Call `on_change` with the changed paths, relative to the project, for as long as the process lives."""
    folders = [PROJECT / folder for folder in FOLDERS if (PROJECT / folder).is_dir()]
    # The files' folders are watched, not the files, which editors replace rather than write; and not what is below
    # these folders, for .venv is.
    parents = sorted({(PROJECT / file).parent for file in FILES if (PROJECT / file).parent.is_dir()})
    wanted = {str(PROJECT / file) for file in FILES}
    threads = [
        threading.Thread(target=_watch, args=(folders, True, lambda path: path.endswith(SUFFIXES), on_change)),
        threading.Thread(target=_watch, args=(parents, False, lambda path: path in wanted, on_change)),
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()


def _watch(
    folders: list[Path], recursive: bool, wanted: Callable[[str], bool], on_change: Callable[[list[str]], None]
) -> None:
    changes = watchfiles.watch(
        *folders,
        watch_filter=lambda _change, path: wanted(path),
        recursive=recursive,
        step=100,  # ms without a further change: an editor's or a checkout's files come together
        raise_interrupt=False,
        debug=False,
    )
    for batch in changes:
        on_change(sorted(str(Path(path).relative_to(PROJECT)) for _change, path in batch))
