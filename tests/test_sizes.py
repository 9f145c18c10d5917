"""A number of bytes is shown in one unit everywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmcli
from llmcli.sizes import size

PACKAGE = Path(llmcli.__file__).parent


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1500, "1.5 KiB"),
        (2048, "2 KiB"),
        (98_362_432, "94 MiB"),
        (1 << 19, "512 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (3 << 29, "1.50 GiB"),
        (5 << 40, "5120.00 GiB"),
    ],
)
def test_a_size_has_the_binary_unit_that_suits_it(nbytes: int, shown: str) -> None:
    assert size(nbytes) == shown


def formatted(tree: ast.AST) -> Iterator[str]:
    """The texts of a module that stand beside values: the constant parts of f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from (
                part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )


def test_only_one_function_formats_sizes() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "sizes.py"]
    assert others
    for path in others:
        for text in formatted(ast.parse(path.read_text(encoding="utf-8"))):
            # A rate of memory in GB/s is not a size.
            assert not re.search(r"\b[KMGTk]i?B\b(?!/s)", text), f"{path}: {text!r}"
