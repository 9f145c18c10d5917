"""Writing safetensors files, tensor by tensor: a header that says where each will be, then their bytes.

The `safetensors` library (0.8) writes a file from tensors that are all in memory at once, and a merged checkpoint may
need more than there is; here one is in memory at a time. The library also writes the metadata in another order each
time, so that the same edit would not give the same file, and its functions for torch need NumPy, which `llm` does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

from llmcli.checkpoint.tensors.reader import memory_of

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# The data begin at a multiple of so many bytes; spaces fill the header up, as the format allows.
_ALIGNMENT = 8


@dataclass(frozen=True)
class Planned:
    """A tensor that is going to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes it will take."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    file: IO[bytes], planned: Sequence[Planned], values: Iterable[Tensor], metadata: Mapping[str, str]
) -> Iterator[int]:
    """Write the tensors' `values`, one after another, each whole and of the shape and type that is planned.

    Yields the bytes written after each, so that the caller can tell how far it is. ValueError for other values.
    """
    # The header is UTF-8, which bytes of names that are not (lone surrogates) cannot be part of.
    texts = {name: text.encode("utf-8", errors="backslashreplace").decode() for name, text in metadata.items()}
    header: dict[str, object] = {"__metadata__": texts}
    at = 0
    for plan in planned:
        header[plan.name] = {
            "dtype": _NAMES[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [at, at + plan.nbytes],
        }
        at += plan.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    done = 0
    for plan, tensor in zip(planned, values, strict=True):
        if tensor.dtype != plan.dtype or tuple(tensor.shape) != plan.shape:
            raise ValueError(f"{plan.name} is {tensor.dtype} {tuple(tensor.shape)}, not as planned")
        whole = tensor.detach().cpu().contiguous()
        file.write(memory_of(whole))
        done += plan.nbytes
        yield done
