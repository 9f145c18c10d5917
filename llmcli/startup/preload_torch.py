"""Having the system load torch's libraries while Python is still busy with the program's own start."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from llmcli.startup.plain_import import imports_plainly

# Those that load a model whatever else they are told.
_COMMANDS = {"batch", "chat", "compare", "generate", "inspect", "score", "trace"}
# And those that do not.
_WITHOUT_MODEL = {("inspect", "cost"), ("inspect", "tokens")}
# What is imported before torch is, and loads libraries of its own where Python does not have it built in.
_LIBRARIES = (
    *("_bisect", "_blake2", "_bz2", "_ctypes", "_datetime", "_decimal", "_hashlib", "_heapq", "_json", "_lzma"),
    *("_opcode", "_posixsubprocess", "_queue", "_random", "_sha512", "_struct", "_typing", "_uuid", "binascii"),
    *("fcntl", "math", "select", "tokenizers", "zlib"),
)


def begin(arguments: Sequence[str]) -> None:
    """Load torch's libraries ahead if a command with these `arguments` is going to need them."""
    if not arguments or arguments[0] not in _COMMANDS or tuple(arguments[:2]) in _WITHOUT_MODEL:
        return
    if not {"-h", "--help"}.intersection(arguments):
        load_torch_ahead()


@functools.cache
def load_torch_ahead() -> None:
    """Have the system begin loading torch's libraries, which takes a third of a second; never fails.

    `import torch` would do it too, but holding up all other Python code meanwhile. No other library can be loaded
    before it is done: those that will be needed are loaded first. Where torch is to be imported plainly
    (`imports_plainly`), nothing is loaded.
    """
    if sys.platform != "linux" or "torch" in sys.modules or imports_plainly():
        return
    with contextlib.suppress(ImportError, ValueError, AttributeError, OSError):
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            return
        folder = Path(torch.origin).parent / "lib"
        for name in _LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        import ctypes

        # A foreign function, unlike the class `CDLL`, runs beside Python.
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p

        def load_all() -> None:
            # As `import torch` does it: what all libraries share first.
            for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
                if not load(os.fsencode(folder / name), mode | os.RTLD_NOW):
                    return

        threading.Thread(target=load_all, name="torch's libraries", daemon=True).start()
