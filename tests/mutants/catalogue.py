"""Read the catalogue, and plant its mutants."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Misplaced(ValueError):
    """A mutant's text is not in its file exactly once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: `text` of `file` becomes something else. It is caught by a test of `caught_by`, or by the seed."""

    name: str
    file: str
    text: str
    becomes: str
    caught_by: tuple[str, ...] = ()
    seed: int | None = None

    def planted_in(self, source: str) -> str:
        """Return the file's source with the bug in it; raises Misplaced."""
        found = source.count(self.text)
        if found != 1:
            raise Misplaced(
                f"mutant {self.name!r}: {self.file} has its text {found} times, and must have it once. "
                f"Where the code has moved, say in tests/mutants/ what the same mistake looks like now:\n{self.text}"
            )
        return source.replace(self.text, self.becomes)

    def plant(self, tree: Path) -> None:
        """Put the bug into the file of a source tree; raises Misplaced."""
        path = tree / self.file
        path.write_text(self.planted_in(path.read_text()))


def catalogue() -> list[Mutant]:
    """Return every mutant, in the order of the files."""
    files = (tomllib.loads(path.read_text()) for path in sorted(HERE.glob("*.toml")))
    return [
        Mutant(**{**words, "caught_by": tuple(words.get("caught_by", ()))})
        for file in files
        for words in file["mutant"]
    ]
