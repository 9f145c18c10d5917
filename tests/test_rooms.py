"""The house keeps its shape: each room imports only from rooms above it, and the front door stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmcli

PACKAGE = Path(llmcli.__file__).parent
# Top to bottom. `views` and `bench` stand beside each other on purpose: neither needs the other. `conversations` keeps
# what was said on disk, which a user of the library wants as much as the chat does, and needs no model for it.
ROOMS = [
    "__init__", "errors", "library_output", "torch_build", "device", "text", "model", "kernels", "checkpoint", "engine",
    "conversations", "api", "inspection", "editing", "views", "commands", "bench", "cli", "__main__",
]  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path, *, typing_too: bool = True) -> set[str]:
    """Every module of ours that a file imports, at any depth of its code."""
    tree = ast.parse(path.read_text())
    found = set()
    # Before anything else is looked for: a walk has its next nodes before it shows the one they hang from.
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llmcli"):
            found |= {node.module} | (
                {f"llmcli.{alias.name}" for alias in node.names if alias.name in ROOMS}
                if node.module == "llmcli"
                else set()
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("llmcli")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    relative = path.relative_to(PACKAGE).with_suffix("")
    room = relative.parts[0]
    assert room in ROOMS, f"{path} is in no room"
    if relative == Path("__init__"):
        return  # the package's own door, which opens lazily on the public API
    # Views name the types they draw without importing what computes them.
    below = {
        module
        for module in imports(path, typing_too=room != "views")
        if ROOMS.index(room_of(module)) > ROOMS.index(room)
    }
    assert not below


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_out_of_the_front_rooms(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room not in ("__init__", "errors", "library_output", "text", "views", "commands", "cli", "__main__"):
        return
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] == "torch"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["chat", "--help"], ["bench", "--help"], ["--version"], ["list"]]
)
def test_the_front_door_does_not_import_what_it_has_no_use_for(arguments: list[str], tmp_path: Path) -> None:
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
