"""SHA-256 hashes of a model's files, which identify its weights later or elsewhere.

Reading gigabytes takes seconds, so hashes are cached in the platform's cache folder; a file whose size and modification
time are unchanged is assumed to be unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.huggingface.torch_pickles import TorchTensor
from llmcli.checkpoint.native.weights import SplitTensor
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError
from llmcli.files import replace_text, sha256_of
from llmcli.paths import cache_folder

_TEXT_SUFFIXES = (".json", ".jinja", ".model")
_MOST_CACHED = 1000


def file_hashes(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """The SHA-256, in hexadecimal, of each file that influences the model's replies, by file name.

    These are the weight files and, in a folder, the files of its configuration and tokenizer. `progress` is called with
    the bytes hashed so far and the total; never if all hashes are cached.

    Raises:
        CheckpointError: a file cannot be read.
    """
    try:
        paths = sorted(_files(checkpoint))
        known = _cached_hashes()
        marks = {path: _size_and_time(path) for path in paths}
        new = [path for path in paths if known.get(str(path.resolve()), [None])[:-1] != marks[path]]
        sizes = [path.stat().st_size for path in new]
        for index, path in enumerate(new):

            def report(done: int, before: int = sum(sizes[:index])) -> None:
                if progress is not None:
                    progress(before + done, sum(sizes))

            known[str(path.resolve())] = [*marks[path], sha256_of(path, report)]
    except OSError as error:
        raise CheckpointError(f"{error.filename or checkpoint.path} could not be read: {error.strerror}.") from None
    if new:
        _cache_hashes(known)
    return {path.name: str(known[str(path.resolve())][-1]) for path in paths}


def weights_hash(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> str:
    """One SHA-256, in hexadecimal, for all weight files of a model, independent of their names.

    `progress` is that of `file_hashes`.

    Raises:
        CheckpointError: a file cannot be read.
    """
    weights = {path.name for path in _weights(checkpoint)}
    hashes = file_hashes(checkpoint, progress)
    together = "\n".join(sorted(hashes[name] for name in weights))
    return hashlib.sha256(together.encode()).hexdigest()


def hash_cache_path() -> Path:
    """The file in which hashes are cached."""
    return cache_folder() / "hashes.json"


def _files(checkpoint: Checkpoint) -> set[Path]:
    weights = _weights(checkpoint)
    if not checkpoint.path.is_dir():
        return weights
    beside = {path for path in checkpoint.path.iterdir() if path.suffix in _TEXT_SUFFIXES and path.is_file()}
    return weights | beside


def _weights(checkpoint: Checkpoint) -> set[Path]:
    return {path for stored in checkpoint.tensors.values() for path in _paths(stored)}


def _paths(stored: StoredTensor) -> Iterator[Path]:
    if isinstance(stored, TensorInfo | TorchTensor):
        yield stored.path
    elif isinstance(stored, QuantizedTensor | SplitTensor):
        for part in stored.parts:
            yield part.path


def _size_and_time(path: Path) -> list[object]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _cached_hashes() -> dict[str, list[object]]:
    try:
        found = json.loads(hash_cache_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {path: entry for path, entry in entries if isinstance(entry, list) and len(entry) == 3}


def _cache_hashes(known: dict[str, list[object]]) -> None:
    """Cache the hashes, the newest last; if the file cannot be written, they are computed again next time."""
    with suppress(OSError):
        replace_text(hash_cache_path(), json.dumps(dict(list(known.items())[-_MOST_CACHED:]), indent=1))
