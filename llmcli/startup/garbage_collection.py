"""Switch Python's garbage collector off while a model is loaded: the new objects stay, so collecting is wasted time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_frozen = False


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection inside the block; each collection would take a tenth of a second."""
    global _frozen
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Asking the collector for its state would take as long as a collection.
        if not _frozen:
            # The first block leaves modules behind, most of them torch's: exclude them from all later collections.
            gc.freeze()
            _frozen = True
        if enabled:
            gc.enable()
