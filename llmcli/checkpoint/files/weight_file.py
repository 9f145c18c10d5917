"""Open and read the large files of a model, and recognize files of other kinds by their first bytes.

Files are read at explicit offsets, never mapped: truncating a mapped file kills the process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from llmcli.errors import CheckpointError

# Bytes per system call: signals are handled between calls, and one call reads less than 2 GiB anyway.
_LARGEST_READ = 32 << 20
_LONGEST_NAME = 120

_FETCH_AGAIN = "download it again"
_NO_PICKLES = "it is not loaded because unpickling can run code; use a safetensors or GGUF version of the model"
_FOREIGN_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in its folder"),
    (b"<!doctype", "a web page (perhaps an error or a login page)", _FETCH_AGAIN),
    (b"<html", "a web page (perhaps an error or a login page)", _FETCH_AGAIN),
    (b"<?xml", "an XML document (perhaps an error message)", _FETCH_AGAIN),
    (b"{", "a JSON document (perhaps an error message)", _FETCH_AGAIN),
    (b"pk\x03\x04", "a ZIP archive, such as a PyTorch checkpoint", _NO_PICKLES),
    *(
        (bytes([0x80, protocol]), "a Python pickle, such as a PyTorch checkpoint", _NO_PICKLES)
        for protocol in (2, 3, 4, 5)
    ),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"gguf", "a GGUF file", "give it a name that ends in .gguf"),
    *(
        (magic, "a GGML file older than GGUF", "use a GGUF version of the model")
        for magic in (b"lmgg", b"fmgg", b"tjgg")
    ),
)


class WeightFile:
    """A regular file, open for reading at any offset; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open `path`; `CheckpointError` if it cannot be opened or is not a regular file."""
        self.path = path
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"{path} could not be opened: {error.strerror}.") from None
        except ValueError:
            raise CheckpointError(f"{shown(str(path))} is not a possible file name.") from None
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(f"{path} is not a regular file.")

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` (bytes) from `offset`; returns the count, less than its length only at the end of the file."""
        done = 0
        while done < len(buffer):
            piece = buffer[done : done + _LARGEST_READ]
            try:
                count = os.preadv(self._descriptor, [piece], offset + done)
            except OSError as error:
                raise CheckpointError(f"{self.path} could not be read: {error.strerror}.") from None
            if count == 0:
                break
            done += count
        return done

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes from `offset`, fewer only at the end of the file; the caller bounds `count`."""
        data = bytearray(min(count, max(0, self.size - offset)))
        done = self.read_into(memoryview(data), offset)
        return bytes(data[:done])

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_foreign(path: Path, start: bytes) -> None:
    """Raise a `CheckpointError` that names the kind of file, if its first bytes are those of another kind."""
    if not start:
        raise CheckpointError(f"{path} is empty; {_FETCH_AGAIN}.")
    text = start.lstrip().lower()
    for magic, kind, advice in _FOREIGN_STARTS:
        if text.startswith(magic):
            raise CheckpointError(f"{path} is {kind}; {advice}.")


def cut_short(path: Path, tensor: str) -> CheckpointError:
    """The error for a file that ends before a tensor does."""
    return CheckpointError(
        f"{path} ends in the middle of tensor {shown(tensor)}: the file was cut short. Download it again."
    )


def shown(name: str) -> str:
    """A name from a file, safe to print: quoted, control characters escaped, of bounded length."""
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")
