"""One word per thing: public names of the code use a word of docs/glossary.md only where it has its one meaning."""

import ast
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
MEANINGS, PLACES = (
    [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines() if row.startswith("| ")][1:]
    for text in (ROOT / "docs" / "glossary.md").read_text().split("\n## Where a word stands\n")
)
Name = tuple[int, str]  # its line, and the name


def public_names(module: str, source: str) -> Iterator[Name]:
    """Return the module's own name, and those of its classes, functions, methods, constants and fields."""

    def defined(body: Iterable[ast.stmt]) -> Iterator[Name]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield node.lineno, node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body)
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                named = (each for target in targets for each in ast.walk(target))
                yield from ((node.lineno, each.id) for each in named if isinstance(each, ast.Name))

    yield 1, module
    yield from ((line, name) for line, name in defined(ast.parse(source).body) if not name.startswith("_"))


def has(name: str, pattern: str) -> bool:
    """Whether one of the name's words is as the pattern says."""
    return any(fnmatch(word.lower(), pattern) for word in WORD.findall(name))


def misplaced(path: Path, source: str) -> list[str]:
    """Return what is wrong with the module's names: file, line, name, and what the word means."""
    meanings = dict(MEANINGS)
    return [
        f"{path}:{line}: {name!r} has {pattern}, which the glossary keeps for {word!r}: {meanings[word]}"
        for line, name in public_names(path.stem, source)
        for pattern, word, modules in ([cell.replace("`", "") for cell in row] for row in PLACES)
        if has(name, pattern) and not {path.stem, f"{path.stem}.{name}"} & set(modules.split(", "))
    ]


def test_each_word_of_the_code_stands_where_the_glossary_says() -> None:
    paths = sorted((ROOT / "chalicelib").rglob("*.py"))

    found = [each for path in paths for each in misplaced(path.relative_to(ROOT), path.read_text())]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "SETTLE_SECONDS = 60",
        "class Reporter: ...",
        "class Item:\n    epoch: int",
        "class Item:\n    def take_snapshot(self) -> None: ...",
        "FIRST, LAST_EPOCH = 0, 1",
        "def unsettled_slots() -> None: ...",
    ],
)
def test_a_word_elsewhere_is_told_with_its_place_and_meaning(source: str) -> None:
    (told,) = misplaced(Path("chalicelib/ingest/audit.py"), source)

    assert re.fullmatch(
        r"chalicelib/ingest/audit\.py:\d+: '\w+' has [a-z*]+, which the glossary keeps for '[a-z ]+': .+", told
    )


def test_each_word_has_one_row_in_order() -> None:
    words = [word for word, *_ in MEANINGS]

    assert words == sorted(set(words), key=str.lower)
    assert {word for _, word, _ in PLACES} <= set(words)


def test_each_module_that_may_have_a_word_has_it() -> None:
    names = {path.stem: list(public_names(path.stem, path.read_text())) for path in (ROOT / "chalicelib").rglob("*.py")}

    unused = [
        (pattern, module)
        for pattern, _, modules in ([cell.replace("`", "") for cell in row] for row in PLACES)
        for module in modules.split(", ")
        if not any(has(name, pattern) for _, name in names.get(module.partition(".")[0], []))
    ]

    assert unused == []
