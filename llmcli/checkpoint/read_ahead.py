"""Having weights and torch's libraries on their way from the disk while the program is still starting."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pth")


def read_ahead(model: Path) -> None:
    """Ask the system to begin reading a model's weights into its file cache; returns at once, and never fails.

    Importing torch takes a second or more, in which the disk would be idle.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):
        files = [file for file in model.iterdir() if file.suffix in _WEIGHTS] if model.is_dir() else [model]
        for file in sorted(files):
            # Not to be stopped by what is no file: opening a pipe would wait for someone to write to it.
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


def load_torch_ahead() -> None:
    """Have the system begin loading torch's libraries, which takes a fifth of a second; never fails.

    `import torch` would do it too, but holding up all other Python code meanwhile. No other library can be loaded
    before it is done.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    with contextlib.suppress(ImportError, ValueError, AttributeError, OSError):
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            return
        folder = Path(torch.origin).parent / "lib"
        # A foreign function, unlike the class `CDLL`, runs beside Python.
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p

        def load_all() -> None:
            # As `import torch` does it: what all libraries share first.
            for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
                if not load(os.fsencode(folder / name), mode | os.RTLD_NOW):
                    return

        threading.Thread(target=load_all, name="torch's libraries", daemon=True).start()
