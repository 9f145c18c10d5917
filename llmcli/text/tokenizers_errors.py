"""Handle failures of the `tokenizers` library, including Rust panics, which are not `Exception`s."""

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
# For texts up to this many characters, starting a thread takes longer than encoding.
_SHORT = 100
_STDERR = 2
# Rust writes this to stderr before the panic can be caught; the reason and perhaps a backtrace follow.
_PANIC = re.compile(rb"\n?thread '[^\n]*' (?:\(\d+\) )?panicked at ")


def encoded(backend: Backend, text: str) -> Encoding:
    """Encode `text` without adding tokens; Ctrl-C and SIGTERM work meanwhile.

    `Backend.encode` holds the GIL, so a megabyte of text or a hostile regular expression would block every signal.
    `encode_batch` releases it, but the calling thread still cannot handle signals, so it runs in another thread.
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

    # A daemon, since after an interrupt its result is not needed and it may never end.
    threading.Thread(target=work, daemon=True).start()
    found = done.get()
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def wrap_tokenizer_errors(what: str) -> Iterator[None]:
    """Turn any exception of the library into a `CheckpointError` whose message begins with `what`.

    The lines that a panic writes to stderr are dropped, unless `LLMCLI_DEBUG=1` is set.
    """
    try:
        with _stderr_filter.open():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, LlmcliError):
        raise
    except BaseException as error:
        raise CheckpointError(f"{what}: {error!s:.{_LONGEST_REASON}}.") from error


class _StderrFilter:
    """Redirects stderr to a file for a while and afterwards passes on what was written, without panic messages.

    The descriptor belongs to the whole process: the first thread that enters redirects it, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stderr = self._file = -1

    @contextmanager
    def open(self) -> Iterator[None]:
        if os.environ.get("LLMCLI_DEBUG") == "1":
            yield
            return
        try:
            with self._lock:
                self._inside += 1
                if self._inside == 1:
                    self._redirect()
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._restore()

    def _redirect(self) -> None:
        # If stderr is closed there is nothing to redirect; if descriptors run out, panic messages stay visible.
        with suppress(OSError):
            self._file = _anonymous_file()
            self._stderr = os.dup(_STDERR)
            os.dup2(self._file, _STDERR)

    def _restore(self) -> None:
        written = b""
        with suppress(OSError):
            if self._stderr >= 0:
                os.dup2(self._stderr, _STDERR)
                size = os.lseek(self._file, 0, os.SEEK_CUR)
                os.lseek(self._file, 0, os.SEEK_SET)
                written = _PANIC.split(os.read(self._file, size), maxsplit=1)[0]
        for descriptor in (self._stderr, self._file):
            if descriptor >= 0:
                os.close(descriptor)
        self._stderr = self._file = -1
        with suppress(OSError):
            if written:
                os.write(_STDERR, written)


def _anonymous_file() -> int:
    """A descriptor of a file without a name, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_stderr_filter = _StderrFilter()
