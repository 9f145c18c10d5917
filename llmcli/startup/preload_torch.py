"""Load torch's shared libraries in a thread while Python is still starting the program."""

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

from llmcli.paths import server_folder
from llmcli.startup.plain_import import imports_plainly

# Commands that load a model with any arguments.
_COMMANDS = {"batch", "chat", "compare", "generate", "inspect", "score", "serve", "trace"}
# Their subcommands that load none.
_WITHOUT_MODEL = {("inspect", "cost"), ("inspect", "tokens")}
# Extension modules imported before torch; they load shared libraries if Python does not have them built in.
_LIBRARIES = (
    *("_bisect", "_blake2", "_bz2", "_ctypes", "_datetime", "_decimal", "_hashlib", "_heapq", "_json", "_lzma"),
    *("_opcode", "_posixsubprocess", "_queue", "_random", "_sha512", "_struct", "_typing", "_uuid", "binascii"),
    *("fcntl", "math", "select", "tokenizers", "zlib"),
)


def begin(arguments: Sequence[str]) -> None:
    """Start loading torch's libraries if the command with these `arguments` will need them."""
    if not arguments or arguments[0] not in _COMMANDS or tuple(arguments[:2]) in _WITHOUT_MODEL:
        return
    if not {"-h", "--help"}.intersection(arguments) and not _has_server():
        load_torch_ahead()


def _has_server() -> bool:
    """Whether a server seems to be running, which may hold the model: then torch may not be needed."""
    with contextlib.suppress(OSError):
        return any(path.suffix == ".json" for path in server_folder().iterdir())
    return False


@functools.cache
def load_torch_ahead() -> None:
    """Start loading torch's libraries in a thread, which takes a third of a second; never fails.

    `import torch` would load them too, but would block all other Python code meanwhile. Until they are loaded no other
    library can be, so those that will be needed are loaded first. Does nothing if torch must be imported plainly
    (`imports_plainly`).
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

        # Unlike the class `CDLL`, a foreign function runs without the interpreter lock.
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p

        def load_all() -> None:
            # In the order of `import torch`: the common dependencies first.
            for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
                if not load(os.fsencode(folder / name), mode | os.RTLD_NOW):
                    return

        threading.Thread(target=load_all, name="torch's libraries", daemon=True).start()
