"""Deferring parts of torch goes unnoticed, whatever is asked of torch and in whichever order.

Each test needs a process in which torch has not been imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.startup.plain_import import OFF_SWITCH, TESTED_VERSIONS, imports_plainly
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Processes that import torch.
pytestmark = pytest.mark.slow

deferring = pytest.mark.skipif(imports_plainly(), reason="this release of torch is imported plainly, or all are")
START = """
import sys
from llmcli.startup.lazy_torch import import_torch
sys.modules["numpy"] = None
import_torch()
import torch
def unrun():
    return [name for name, module in sys.modules.items() if "_unrun" in getattr(module, "__dict__", ())]
assert len(unrun()) == 16
"""


def run(code: str, *arguments: object, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, OFF_SWITCH: "0", **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@deferring
def test_running_a_model_executes_no_deferred_module() -> None:
    code = """
weight = torch.nn.Parameter(torch.eye(3))
torch.nn.functional.cross_entropy(torch.ones(2, 3) @ weight, torch.tensor([0, 1])).backward()
assert weight.grad.shape == (3, 3)
with torch.device("meta"):
    assert torch.nn.Linear(3, 4)(torch.empty(2, 3)).shape == (2, 4)
torch.linalg.solve(torch.eye(3).double(), torch.ones(3).double())
print(torch.rand(3, generator=torch.Generator().manual_seed(7)).tolist(), len(unrun()))
import_torch()
print(len(unrun()))
"""
    plain = run("import torch; print(torch.rand(3, generator=torch.Generator().manual_seed(7)).tolist())")
    assert run(START + code) == f"{plain.strip()} 16\n16\n"


@deferring
def test_deferred_modules_work_when_they_are_used() -> None:
    code = """
def names(module):
    for name in dir(module):
        if not name.startswith("__"):
            print(module.__name__, name, type(getattr(module, name)).__name__.replace("_DeferredModule", "module"))
put_off = (
    torch._decomp, torch._meta_registrations, torch._prims, torch._refs, torch.ao, torch.ao.quantization,
    torch.distributions, torch.export, torch.masked, torch.nn.intrinsic, torch.nn.qat, torch.nn.quantizable,
    torch.nn.quantized, torch.optim, torch.profiler, torch.quantization, torch.utils.data,
)
for module in put_off:
    getattr(module, "there_is_no_such_name", None)
for module in (torch, torch.nn, torch.utils, *put_off):
    names(module)
"""
    assert run(START + code) == run("import torch\n" + code)


@deferring
def test_torch_compile_works_with_deferred_modules() -> None:
    # An operation whose result shapes only Python registers.
    meta = "torch.empty(4, device='meta').kthvalue(1)[0].shape"
    code = f"""
try:
    {meta}
    print("never put off")
except NotImplementedError:
    pass
function = torch.compile(lambda x: torch.softmax((x @ x).relu(), -1).sum(), backend="aot_eager")
print(function(torch.ones(4, 4)).item())
print({meta})
print([name for name in unrun() if name.startswith("torch._")])
"""
    assert run(START + code) == "4.0\ntorch.Size([])\n[]\n"


@deferring
@pytest.mark.parametrize(
    ("imported", "runs"),
    [
        # Its package imports it, so it could be executed twice.
        ("torch._prims.rng_prims", {"torch._meta_registrations", "torch._decomp", "torch._prims", "torch._refs"}),
        ("torch.ao.nn.quantized", {"torch.ao"}),
        ("torch.nn.quantized.modules", {"torch.nn.quantized", "torch.ao"}),
    ],
)
def test_submodules_of_deferred_packages_can_be_imported_first(imported: str, runs: set[str]) -> None:
    code = f"""
before = set(unrun())
import {imported}
again = sys.modules["{imported}"]
import {imported}
assert {imported} is again is sys.modules["{imported}"]
assert again.__spec__.loader is again.__loader__ and again.__file__
print(sorted(before - set(unrun())))
"""
    assert run(START + code) == f"{sorted(runs)}\n"


@deferring
def test_threads_wait_while_a_deferred_module_is_executed() -> None:
    code = """
import threading
start = threading.Barrier(8)
found = []
def look():
    start.wait()
    found.append(torch.distributions.Normal)
threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(found), len(set(found)))
"""
    assert run(START + code) == "8 1\n"


@deferring
def test_import_star_works_with_a_deferred_module() -> None:
    code = "from torch.masked import *\nprint(MaskedTensor.__name__)"
    assert run(START + code) == "MaskedTensor\n"


def test_a_torch_without_these_modules_is_imported_plainly(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0'")
    (tmp_path / "torch" / "__init__.py").write_text("import sys\nfound = [n for n in sys.modules if n[:6] == 'torch.']")
    code = "import sys; sys.path.insert(0, sys.argv[1])\n" + START.replace("16", "0") + "print(torch.found)"
    assert run(code, tmp_path) == "[]\n"


def test_a_failed_import_leaves_no_deferred_modules(tmp_path: Path) -> None:
    write_torch(tmp_path, "2.13.0", "import torch.ao\nraise ImportError('libc10.so: cannot be opened')")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from llmcli.startup.lazy_torch import import_torch
finders = list(sys.meta_path)
try:
    import_torch()
except ImportError as error:
    print(error, [name for name in sys.modules if name.startswith("torch")], sys.meta_path == finders)
"""
    assert run(code, tmp_path) == "libc10.so: cannot be opened [] True\n"


def write_torch(folder: Path, version: str, source: str) -> None:
    """A package called torch with all deferrable modules in their places."""
    packages = "ao distributions export masked nn/intrinsic nn/qat nn/quantizable nn/quantized optim profiler"
    for package in f"{packages} quantization utils/data _decomp _prims _refs".split():
        (folder / "torch" / package).mkdir(parents=True, exist_ok=True)
        (folder / "torch" / package / "__init__.py").touch()
    (folder / "torch" / "_meta_registrations.py").touch()
    (folder / "torch" / "version.py").write_text(f"__version__ = {version!r}")
    (folder / "torch" / "__init__.py").write_text(source)


@pytest.mark.parametrize(
    ("version", "switch", "deferred"),
    [
        *((f"{version}.1+cu128", "", 16) for version in TESTED_VERSIONS),
        ("2.13.0a0+git1", "0", 16),
        ("2.13.0", "1", 0),
        ("2.10.0", "", 0),
        ("2.1", "", 0),
        ("2.14.0", "", 0),
        ("3.9.0", "", 0),
        ("", "", 0),
    ],
)
def test_only_tested_releases_defer_and_the_switch_turns_it_off(
    version: str, switch: str, deferred: int, tmp_path: Path
) -> None:
    write_torch(tmp_path, version, "class _C: pass")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from llmcli.startup.lazy_torch import import_torch
import_torch()
print(len([name for name, module in sys.modules.items() if "_unrun" in getattr(module, "__dict__", ())]))
"""
    assert run(code, tmp_path, **{OFF_SWITCH: switch}) == f"{deferred}\n"


@deferring
def test_commands_defer_torch_modules(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    command = [sys.executable, "-X", "importtime", "-m", "llmcli", "generate", "hi", "-n", "1", "-m", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import")}
    assert "torch.nn.functional" in imported
    assert not {name for name in imported if name.startswith(("torch._refs", "torch._prims.", "torch.ao."))}
