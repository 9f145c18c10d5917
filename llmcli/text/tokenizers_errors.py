"""The `tokenizers` library, when it fails: of what a file left out it says so by a panic, which is no `Exception`."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, LlmcliError

_LONGEST_REASON = 300
# Characters for which a thread of its own takes longer than the work.
_SHORT = 100
_STDERR = 2
# What Rust writes to stderr itself, before anyone can catch it; then follow the reason and perhaps a backtrace.
_PANIC = re.compile(rb"\n?thread '[^\n]*' (?:\(\d+\) )?panicked at ")


def encoded(backend: Backend, text: str) -> Encoding:
    """`text` with nothing put around it. Ctrl-C and SIGTERM are heeded meanwhile, however long it takes.

    `Backend.encode` keeps the interpreter to itself, so that a megabyte of text, or a hostile expression for words,
    would hold up every signal. A batch does not, but the thread that waits for it hears nothing either.
    """
    if len(text) < _SHORT:
        return backend.encode(text, add_special_tokens=False)
    if threading.current_thread() is not threading.main_thread():
        return backend.encode_batch([text], add_special_tokens=False)[0]
    done: SimpleQueue[Encoding | BaseException] = SimpleQueue()

    def work() -> None:
        try:
            done.put(backend.encode_batch([text], add_special_tokens=False)[0])
        except BaseException as error:
            done.put(error)

    # If the wait is broken off, nobody wants what comes of it, and it may take for ever.
    threading.Thread(target=work, daemon=True).start()
    found = done.get()
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def wrap_tokenizer_errors(what: str) -> Iterator[None]:
    """Whatever the library raises inside becomes a `CheckpointError` that begins with `what` went wrong.

    A panic's own lines do not reach stderr, unless `LLMCLI_DEBUG=1` asks for them.
    """
    try:
        with _aside.open():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, LlmcliError):
        raise
    except BaseException as error:
        raise CheckpointError(f"{what}: {error!s:.{_LONGEST_REASON}}.") from error


class _Aside:
    """A place for what is written to stderr meanwhile; what is no panic is passed on afterwards.

    The descriptor belongs to the whole process: the first thread inside turns it away, the last one turns it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stderr = self._place = -1

    @contextmanager
    def open(self) -> Iterator[None]:
        if os.environ.get("LLMCLI_DEBUG") == "1":
            yield
            return
        try:
            with self._lock:
                self._inside += 1
                if self._inside == 1:
                    self._turn_away()
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._turn_back()

    def _turn_away(self) -> None:
        # Where stderr is closed nothing is seen, and where descriptors run out more is seen than should be.
        with suppress(OSError):
            self._place = _scratch()
            self._stderr = os.dup(_STDERR)
            os.dup2(self._place, _STDERR)

    def _turn_back(self) -> None:
        written = b""
        with suppress(OSError):
            if self._stderr >= 0:
                os.dup2(self._stderr, _STDERR)
                size = os.lseek(self._place, 0, os.SEEK_CUR)
                os.lseek(self._place, 0, os.SEEK_SET)
                written = _PANIC.split(os.read(self._place, size), maxsplit=1)[0]
        for descriptor in (self._stderr, self._place):
            if descriptor >= 0:
                os.close(descriptor)
        self._stderr = self._place = -1
        with suppress(OSError):
            if written:
                os.write(_STDERR, written)


def _scratch() -> int:
    """A descriptor of a file without a name, in memory where the system has such a thing."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_aside = _Aside()
