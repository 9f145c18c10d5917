"""Rooms and sub-rooms import downwards only, without cycles, and commands without a model stay light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import pytest

import llmcli

Module: TypeAlias = tuple[str, ...]
"""The parts of a path in the package, without the suffix."""
PACKAGE = Path(llmcli.__file__).parent
# Bottom to top: a room imports only from rooms before it. `__init__` imports the public API on first use, and no other
# module imports through it.
ROOMS = [
    "errors", "extras", "sizes", "paths", "files", "docs", "library_output", "torch_build", "device", "text", "model",
    "kernels", "checkpoint", "hub", "distributed", "engine", "conversations", "loaded_model", "api", "inspection",
    "editing", "doctor", "replay", "startup", "server", "client", "bench", "views", "commands", "cli", "__main__",
]  # fmt: skip
MODULES = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> Iterator[Module]:
    """Every module of ours that a file imports, inside functions and for type checkers too: its path in the package."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *parts = name.split(".")
            if package == PACKAGE.name:
                yield _module(tuple(parts))


def _module(parts: Module) -> Module:
    """The module that a dotted name is in: itself, or without its last part, which is then a name inside of it."""
    for known in (parts, (*parts, "__init__"), parts[:-1], (*parts[:-1], "__init__")):
        if known in MODULES:
            return known
    raise AssertionError(f"there is no module {'.'.join(parts)}")


def arrows(
    importers: Mapping[tuple[str, ...], Iterable[tuple[str, ...]]],
) -> dict[tuple[str, ...], dict[str, set[str]]]:
    """For each folder, which of the files and folders in it import from which others in it."""
    found: dict[Module, dict[str, set[str]]] = {}
    for importer, modules in importers.items():
        for module in modules:
            shared = 0
            while importer[shared] == module[shared] and shared < min(len(importer), len(module)) - 1:
                shared += 1
            if importer[shared] != module[shared]:
                found.setdefault(importer[:shared], {}).setdefault(importer[shared], set()).add(module[shared])
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A cycle of a graph, from a node back to it."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


FRONT_DOOR = ("__init__",)
# Rooms that a command imports before it is known whether it needs torch.
LIGHT_ROOMS = ("__init__", "errors", "paths", "docs", "library_output", "text", "views", "commands", "cli", "__main__")


@functools.cache
def imports_by_module() -> dict[Module, list[Module]]:
    """What each module imports, all files read once."""
    return {module: list(imports(path.read_text())) for module, path in MODULES.items()}


def test_a_room_imports_only_from_rooms_below_it() -> None:
    assert not {module[0] for module in MODULES} - {*ROOMS, *FRONT_DOOR}, "in no room"
    assert not [
        f"{'/'.join(importer)} imports {'/'.join(module)}"
        for importer, modules in imports_by_module().items()
        for module in modules
        if FRONT_DOOR not in (importer, module) and ROOMS.index(module[0]) > ROOMS.index(importer[0])
    ]


def test_no_folder_has_a_cycle_of_imports() -> None:
    found = arrows({module: modules for module, modules in imports_by_module().items() if module != FRONT_DOOR})
    assert len(found) > 10
    assert not {"/".join(folder): cycle(graph) for folder, graph in found.items() if cycle(graph)}


def test_cycles_are_found() -> None:
    source = "def late() -> None:\n    from llmcli.text.vocab.load import tokenizer_from_json"
    assert list(imports(source)) == [("text", "vocab", "load")]
    late = {("text", "stop_tokens"): imports(source), ("text", "vocab", "gguf"): [("text", "stop_tokens")]}
    assert cycle(arrows(late)[("text",)]) is not None
    del late[("text", "vocab", "gguf")]
    late[("text", "stop_tokens")] = imports(source)
    assert cycle(arrows(late)[("text",)]) is None


def test_the_front_rooms_do_not_import_torch() -> None:
    front = {module: path for module, path in MODULES.items() if module[0] in LIGHT_ROOMS}
    assert len(front) > 50
    assert not [
        "/".join(module)
        for module, path in front.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "torch" in _libraries(node)
    ]


def _libraries(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["chat", "--help"], ["bench", "--help"], ["--version"], ["list"]]
)
def test_commands_without_a_model_import_no_heavy_library(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from llmcli.cli import main\n"
        f"sys.argv = ['llm', *{arguments}]\n"
        "unneeded = ('torch', 'transformers', 'numpy', 'tomllib', 'tomli')\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in unneeded if m in sys.modules], file=sys.stderr)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"
