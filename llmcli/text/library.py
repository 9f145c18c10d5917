"""The `tokenizers` library, when it fails: of what a file left out it says so by a panic, which is no `Exception`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmcli.errors import CheckpointError, LlmcliError


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever the library raises inside becomes a `CheckpointError` that begins with `what` went wrong."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, LlmcliError):
        raise
    except BaseException as error:
        raise CheckpointError(f"{what}: {error}.") from error
