"""Python's garbage collector while a model is loaded: what is made then stays, so looking for garbage is lost time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_frozen = False


@contextmanager
def no_garbage() -> Iterator[None]:
    """While much is made that stays, look for no garbage in it: each look takes a tenth of a second."""
    global _frozen
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # To ask the collector whether it has been done would take it as long as a look.
        if not _frozen:
            # What the first of these leaves behind are modules, above all torch's: no later look needs to go there.
            gc.freeze()
            _frozen = True
        if enabled:
            gc.enable()
