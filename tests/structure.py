"""How the source is divided: python files per folder, and the longest functions.

`python -m tests.structure` prints both; `tests/test_structure.py` holds the limits.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PARTS = ("llmcli", "tests")


class Function(NamedTuple):
    """A function or method: its length in lines, decorators not counted, and where it is."""

    lines: int
    path: str
    name: str


def files_by_folder() -> Counter[str]:
    """How many python files each folder of `llmcli` and `tests` has itself; `__init__.py` is not counted."""
    paths = [path for part in PARTS for path in (ROOT / part).rglob("*.py") if path.name != "__init__.py"]
    return Counter(path.parent.relative_to(ROOT).as_posix() for path in paths)


def functions(folder: str = "llmcli") -> list[Function]:
    """All functions and methods under a folder, the longest first."""
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        found += [Function(lines, where, name) for name, lines in _functions(ast.parse(path.read_text()), "")]
    return sorted(found, reverse=True)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, (child.end_lineno or child.lineno) - child.lineno + 1
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{prefix}{child.name}."
        yield from _functions(child, inner)


def main() -> None:
    """Print the files per folder and the 20 longest functions."""
    for folder, count in sorted(files_by_folder().items()):
        print(f"{count:4}  {folder}")
    print()
    for function in functions()[:20]:
        print(f"{function.lines:4}  {function.path}  {function.name}")


if __name__ == "__main__":
    main()
