"""The source stays easy to navigate: short functions, small folders, and tests independent of each other."""

from __future__ import annotations

import ast

import pytest

from tests.structure import ROOT, files_by_folder, functions

_LONGEST = 119
_MOST_FILES = 16


def imported_test_modules(source: str) -> list[str]:
    """The test modules that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    # The last part may be a function: only of a package's path can `test_` begin a module's name.
    return [
        name
        for name in names
        if name.startswith("tests.")
        and (any(part.startswith("test_") for part in name.split(".")[:-1]) or _is_module(name))
    ]


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.name.startswith("test_") and path.with_suffix(".py").is_file()


def test_no_test_module_is_imported_by_another() -> None:
    importers = {
        path.relative_to(ROOT).as_posix(): imported
        for path in (ROOT / "tests").rglob("*.py")
        if (imported := imported_test_modules(path.read_text()))
    }
    assert not importers, "what several tests need is in tests/support"


@pytest.mark.parametrize(
    "source",
    [
        "from tests.model.test_rope import IDS",
        "def late() -> None:\n    import tests.test_structure",
        "from tests import test_structure",
    ],
)
def test_imports_of_test_modules_are_found_anywhere(source: str) -> None:
    assert imported_test_modules(source)


def test_imports_of_support_modules_are_allowed() -> None:
    assert not imported_test_modules("from tests.support.models.tiny import test_something\nimport pytest")


def test_no_function_is_too_long() -> None:
    assert not [
        function
        for function in functions()
        if function.lines > _LONGEST and not function.path.startswith("llmcli/kernels/")
    ]


def test_no_folder_has_too_many_files() -> None:
    assert not {folder: count for folder, count in files_by_folder().items() if count > _MOST_FILES}


def test_functions_within_functions_are_measured() -> None:
    names = {function.name: function.lines for function in functions("tests/support/text")}
    assert names["cut"] == 4
    inner = {function.name for function in functions("tests/support/gguf")}
    assert {"quantized", "quantized.kind_of"} <= inner


def class_names(sources: dict[str, str]) -> dict[str, list[str]]:
    """The modules that define each class, whatever it is defined in."""
    found: dict[str, list[str]] = {}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path)
    return found


def test_no_class_name_is_used_twice() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "llmcli").rglob("*.py"))}
    assert not {name: paths for name, paths in class_names(sources).items() if len(paths) > 1}


def test_duplicate_class_names_are_found() -> None:
    sources = {"a.py": "class Reply: ...", "b.py": "def late():\n    class Reply: ..."}
    assert class_names(sources)["Reply"] == ["a.py", "b.py"]
