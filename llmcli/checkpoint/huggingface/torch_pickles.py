"""Read weights that `torch.save` wrote: `pytorch_model*.bin` and `consolidated.NN.pth`.

Such a file is a pickle, and unpickling can run arbitrary code. It is only read by `torch.load(weights_only=True)`,
which builds tensors and plain containers and refuses everything else.

Since PyTorch 1.6 the file is a ZIP archive of plain arrays. It is mapped into memory: opening it costs next to nothing
and the system drops pages as needed; no other program may truncate it meanwhile. Older files are read whole, one at a
time: beside the model this takes up to twice the size of the largest file, as the allocator does not return all freed
memory.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llmcli.checkpoint.files.weight_file import WeightFile, refuse_foreign, shown
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.tensor_info import RowReader
from llmcli.errors import CheckpointError, UnsupportedModelError

# In earlier versions a file could corrupt memory in spite of `weights_only` (CVE-2026-24747).
_SAFE_TORCH = "2.10"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02"
# Limits in bytes; the largest real ones have a few MB, hundreds of bytes for each tensor.
_LARGEST_DIRECTORY = 32 << 20
_LARGEST_PICKLE = 64 << 20
# Keys under which training programs store the weights, beside the optimizer's state.
_WRAPPERS = ("model", "state_dict", "module")
# How PyTorch names a forbidden function in its error message.
_FOREIGN = re.compile(r"\bGLOBAL (\S+)")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
_NAMES = {encoding.dtype: name for name, encoding in ENCODINGS.items() if encoding.dtype is not None}


@dataclass(frozen=True, eq=False)
class TorchTensor:
    """A tensor of a file that `torch.save` wrote."""

    name: str
    path: Path
    shape: tuple[int, ...]
    encoding: str
    nbytes: int
    memory: tuple[object, ...]
    """Tensors of one file with equal `memory` are the same values, stored once."""
    values: Callable[[RowReader], Tensor]
    """Returns the tensor; data that later calls need is cached as long as the reader lives."""

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the first dimension, (rows, values of a row), in the stored dtype."""
        values = self.values(reader)
        values = values.reshape(1) if values.dim() == 0 else values
        return values[start:stop].reshape(stop - start, math.prod(self.shape[1:]))


def read_torch_file(path: Path, *, largest_pickle: int = _LARGEST_PICKLE) -> dict[str, TorchTensor]:
    """The tensors of one file, by name; its pickle may have at most `largest_pickle` bytes.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or holds other things than weights.
        UnsupportedModelError: the installed PyTorch cannot read such files safely.
    """
    _check_torch(path)
    with WeightFile(path) as file:
        start = file.read(0, 64)
        mapped = start.startswith(_ZIP)
        if mapped:
            _check_archive(file, largest_pickle)
        elif not start.startswith(_PICKLE):
            refuse_foreign(path, start)
            raise CheckpointError(f"{path} is not a file that PyTorch wrote. Download it again.")
    loaded = _load(path, mapped=mapped)
    found: dict[str, TorchTensor] = {}
    for name, tensor in loaded.items():
        _check_tensor(path, name, tensor)
        found[name] = TorchTensor(
            name=name,
            path=path,
            shape=tuple(tensor.shape),
            encoding=_NAMES[tensor.dtype],
            nbytes=tensor.nbytes,
            memory=(path, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype),
            values=_Mapped(tensor) if mapped else _Whole(path, name),
        )
    return found


def without_shared_head(tensors: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
    """The tensors without an output head that is the embedding under a second name, so that it is kept once."""
    uses = Counter(tensor.memory for tensor in tensors.values())
    return {name: tensor for name, tensor in tensors.items() if not (name.endswith(_HEADS) and uses[tensor.memory] > 1)}


@dataclass(frozen=True, eq=False)
class _Mapped:
    tensor: Tensor

    def __call__(self, reader: RowReader) -> Tensor:
        return self.tensor


# For each reader, the old-format file that it loaded last.
_LAST: WeakKeyDictionary[RowReader, tuple[Path, Mapping[str, Tensor]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Whole:
    path: Path
    name: str

    def __call__(self, reader: RowReader) -> Tensor:
        last = _LAST.get(reader)
        if last is None or last[0] != self.path:
            _LAST.pop(reader, None)
            last = self.path, _load(self.path, mapped=False)
            _LAST[reader] = last
        if self.name not in last[1]:
            raise CheckpointError(f"{self.path} was changed while it was read: {shown(self.name)} is gone.")
        return last[1][self.name]


def _check_torch(path: Path) -> None:
    # A TorchVersion compares by its numbers, also with a string.
    if torch.__version__ < _SAFE_TORCH:
        raise UnsupportedModelError(
            f"{path} is a pickle, which PyTorch {torch.__version__} does not read safely; install PyTorch "
            f"{_SAFE_TORCH} or newer, or use a safetensors version of the model."
        )


def _check_archive(file: WeightFile, largest_pickle: int) -> None:
    """Refuse archives that would take more memory than their size, or whose arrays cannot be mapped."""
    if _directory_size(file) > _LARGEST_DIRECTORY:
        raise _damaged(file.path, "its table of contents cannot be found or is too large")
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, IndexError) as error:
        raise _damaged(file.path, str(error)) from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _damaged(file.path, f"{shown(entry.filename)} in it is compressed, which PyTorch never does")
        if entry.filename.endswith("/constants.pkl"):
            raise UnsupportedModelError(
                f"{file.path} is a TorchScript archive, which holds code and is not read; use a safetensors or GGUF "
                "version of the model."
            )
        if entry.filename.endswith(".pkl") and entry.file_size > largest_pickle:
            raise _damaged(file.path, f"{shown(entry.filename)} in it has {entry.file_size} bytes")


def _directory_size(file: WeightFile) -> int:
    """Bytes of a ZIP archive's directory, from its last record; PyTorch writes nothing after that record."""
    end = file.read(file.size - 22, 22) if file.size > 22 else b""
    if not end.startswith(b"PK\5\6"):
        return 1 << 64
    size = int.from_bytes(end[12:16], "little")
    # Large archives have a longer record of 56 bytes, and one of 20 that points to it.
    longer = file.read(max(0, file.size - 98), 56)
    return int.from_bytes(longer[40:48], "little") if size == 0xFFFFFFFF and longer.startswith(b"PK\6\6") else size


def _load(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    """The tensors of a file: its whole content, or that of one of its entries."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    # A damaged pickle can raise any type of error.
    except Exception as error:
        foreign = _FOREIGN.search(str(error)) if isinstance(error, UnpicklingError) else None
        if foreign is None:
            raise _damaged(path, _reason(error)) from None
        raise UnsupportedModelError(
            f"{path} holds more than weights: it asks for {shown(foreign[1])}, which could run code, so it is not "
            "read. Use a safetensors or GGUF version of the model."
        ) from None
    return _state_dict(path, content)


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__}, not weights by name")
    entries: dict[object, object] = content
    if not any(isinstance(value, Tensor) for value in entries.values()):
        inner = {name: value for name in _WRAPPERS if isinstance(value := entries.get(name), dict)}
        if len(inner) != 1:
            what = "no weights" if not inner else f"several sets of weights ({' and '.join(inner)})"
            raise CheckpointError(f"{path} holds {what}; use a safetensors or GGUF version of the model.")
        [entries] = inner.values()
    tensors: dict[str, Tensor] = {}
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: the entry {shown(str(name))} among the weights is a {type(value).__name__}, not a tensor."
            )
        tensors[name] = value
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse tensors that are not plain arrays in main memory with all values stored."""
    where = f"{path}: tensor {shown(name)}"
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _NAMES:
        raise UnsupportedModelError(
            f"{where} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}, which is not supported."
        )
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{where} has shape {list(tensor.shape)}, but the file stores fewer values.")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid PyTorch file: {what}. Download it again.")


def _reason(error: Exception) -> str:
    """PyTorch's error message without its advice to switch the protection off."""
    text = str(error)
    _, found, detail = text.partition("WeightsUnpickler error: ")
    line = next((line.strip() for line in (detail if found else text).splitlines() if line.strip()), "")
    return shown(line or type(error).__name__)
