"""Importing torch without those of its parts that no command uses: a third of the time that `import torch` takes.

Most of it goes into what torch tells its compilers of its operations: which shapes and types they give
(`_meta_registrations`), and what simpler ones they could be made of (`_decomp`, `_refs`, `_prims`). The rest are
packages that `import torch` runs for the sake of `torch.name` alone. Each is there, and is run as soon as somebody asks
for something of it. Who uses this program as a library gets torch as it is.

On the releases of torch that this is done for (see `plain_import`) running them changes nothing else that is noticed
without a compiler, with one exception, below. Tensors on `meta` notice: what is told of them by Python alone is not
known before a compiler has been used. `LLMCLI_PLAIN_IMPORT=1` turns all of it off.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from llmcli.startup.plain_import import imports_plainly

# They need one another, and are only sure to find what they need if the first of them is run first.
_FOR_COMPILERS = ("torch._meta_registrations", "torch._decomp", "torch._prims", "torch._refs")
_PACKAGES = (
    "torch.ao",
    "torch.distributions",
    "torch.export",
    "torch.masked",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.optim",
    "torch.profiler",
    "torch.quantization",
    "torch.utils.data",
)
_RUNNING = threading.RLock()


def import_torch() -> None:
    """Import torch, and put off what can be.

    Does nothing if torch has been imported before, is to be imported plainly (`imports_plainly`), or looks otherwise.
    """
    if "torch" in sys.modules or imports_plainly():
        return
    put_off, finder = _put_off(), _ParentFirst()
    if not put_off:
        return
    sys.modules.update(put_off)
    sys.meta_path.insert(0, finder)
    try:
        import torch
    except BaseException:
        sys.meta_path.remove(finder)
        for name in put_off:
            sys.modules.pop(name, None)
        raise
    _bind()
    if hasattr(torch._C, "_set_generator_metaclass"):
        # What has to be said before there can be a `torch.Generator`, one of them would have said (torch 2.13).
        from torch._opaque_base import OpaqueBaseMeta

        torch._C._set_generator_metaclass(OpaqueBaseMeta)


class _PutOff(ModuleType):
    """A module that is there, and is run when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        # Those who look through all modules ask for names like these, and `import *` for one of them.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        self.run()
        return super().__getattribute__(name)

    def run(self) -> None:
        """Run the module, unless that has been done; while it is being run, other threads wait, and itself does not."""
        with _RUNNING:
            first = sys.modules[_FOR_COMPILERS[0]]
            if self.__name__ in _FOR_COMPILERS[1:] and isinstance(first, _PutOff):
                first.run()
            spec = vars(self).pop("_unrun", None)
            if spec is not None:
                _bind()
                spec.loader.exec_module(self)


class _ParentFirst(MetaPathFinder):
    """Has what was put off run before its submodules are, as it would have been."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(parent, _PutOff) or "_unrun" not in vars(parent):
            return None
        parent.run()
        # Where it is found in its place, it would be run once more.
        imported = sys.modules.pop(name, None)
        return None if imported is None else ModuleSpec(name, _Imported(imported))


class _Imported(Loader):
    """Gives a module that its parent has imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _put_off() -> dict[str, ModuleType]:
    """The modules, unrun; none if they are not all where they were when this was written."""
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return {}
    folder = Path(torch.submodule_search_locations[0])
    found: dict[str, ModuleType] = {}
    for name in (*_FOR_COMPILERS, *_PACKAGES):
        spec = PathFinder.find_spec(name, [str(folder.joinpath(*name.split(".")[1:-1]))])
        if spec is None or spec.loader is None:
            return {}
        # With what importing tells a module of itself.
        found[name] = module = _PutOff(name)
        module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
        module.__file__, vars(module)["_unrun"] = spec.origin, spec
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
    return found


def _bind() -> None:
    """Make each of them an attribute of the package it is in, as importing it would."""
    for name in (*_FOR_COMPILERS, *_PACKAGES):
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).setdefault(child, sys.modules[name])
