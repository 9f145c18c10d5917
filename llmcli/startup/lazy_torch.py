"""Import torch but defer the parts of it that no command uses, which saves a third of the time of `import torch`.

Most of the deferred work tells torch's compilers about operations: the shapes and dtypes of results
(`_meta_registrations`), and decompositions into simpler operations (`_decomp`, `_refs`, `_prims`). The rest are
packages that `import torch` imports only to offer them as `torch.name`. Each deferred module is in `sys.modules`, and
is executed when an attribute of it is first used. A program that imports llmcli as a library gets the ordinary torch.

On the tested releases of torch (see `plain_import`), deferring changes nothing else that is noticed without a compiler,
with one exception: operations on `meta` tensors that only Python registers are unknown until a compiler has been used.
`LLMCLI_PLAIN_IMPORT=1` turns all of this off.
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

# These import each other, and find what they need only if the first of them is executed first.
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
    """Import torch with the deferrable modules deferred.

    Does nothing if torch is imported already, must be imported plainly (`imports_plainly`), or lacks these modules.
    """
    if "torch" in sys.modules or imports_plainly():
        return
    deferred, finder = _deferred_modules(), _ParentFirst()
    if not deferred:
        return
    sys.modules.update(deferred)
    sys.meta_path.insert(0, finder)
    try:
        import torch
    except BaseException:
        sys.meta_path.remove(finder)
        for name in deferred:
            sys.modules.pop(name, None)
        raise
    _bind()
    if hasattr(torch._C, "_set_generator_metaclass"):
        # A deferred module would have set this before the first `torch.Generator` is made (torch 2.13).
        from torch._opaque_base import OpaqueBaseMeta

        torch._C._set_generator_metaclass(OpaqueBaseMeta)


class _DeferredModule(ModuleType):
    """A deferred module: it is executed when an attribute of it is first read."""

    def __getattr__(self, name: str) -> Any:
        # Code that walks `sys.modules` reads dunder names; of those only `__all__` is needed, by `import *`.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        self.run()
        return super().__getattribute__(name)

    def run(self) -> None:
        """Execute the module once; other threads wait meanwhile, but the module itself may read its attributes."""
        with _RUNNING:
            first = sys.modules[_FOR_COMPILERS[0]]
            if self.__name__ in _FOR_COMPILERS[1:] and isinstance(first, _DeferredModule):
                first.run()
            spec = vars(self).pop("_unrun", None)
            if spec is not None:
                _bind()
                spec.loader.exec_module(self)


class _ParentFirst(MetaPathFinder):
    """Executes a deferred package before any of its submodules is imported, as a plain import would."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(parent, _DeferredModule) or "_unrun" not in vars(parent):
            return None
        parent.run()
        # If the package imported the submodule meanwhile, use that one: it must not be executed twice.
        imported = sys.modules.pop(name, None)
        return None if imported is None else ModuleSpec(name, _Imported(imported))


class _Imported(Loader):
    """Returns a module that its package has imported already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _deferred_modules() -> dict[str, ModuleType]:
    """The deferrable modules, not executed; empty if one of them is not where this version of torch has it."""
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return {}
    folder = Path(torch.submodule_search_locations[0])
    found: dict[str, ModuleType] = {}
    for name in (*_FOR_COMPILERS, *_PACKAGES):
        spec = PathFinder.find_spec(name, [str(folder.joinpath(*name.split(".")[1:-1]))])
        if spec is None or spec.loader is None:
            return {}
        # The attributes that an import sets.
        found[name] = module = _DeferredModule(name)
        module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
        module.__file__, vars(module)["_unrun"] = spec.origin, spec
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
    return found


def _bind() -> None:
    """Set each deferred module as an attribute of its parent package, as an import would."""
    for name in (*_FOR_COMPILERS, *_PACKAGES):
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).setdefault(child, sys.modules[name])
