"""Write safetensors files tensor by tensor: a header with all positions, then the bytes of each tensor.

The `safetensors` library (0.8) needs all tensors in memory at once, and a merged checkpoint may not fit; here one
tensor is in memory at a time. The library also writes metadata in a random order, so that equal edits would give
different files, and its functions for torch need NumPy, which `llm` does not install.
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
# The data begin at a multiple of this; the header is padded with spaces, as the format allows.
_ALIGNMENT = 8


@dataclass(frozen=True)
class Planned:
    """Name, dtype and shape of a tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    file: IO[bytes], planned: Sequence[Planned], values: Iterable[Tensor], metadata: Mapping[str, str]
) -> Iterator[int]:
    """Write the header for `planned`, then the tensors of `values` one by one.

    Yields the bytes of tensors written so far after each tensor. ValueError for a tensor of another shape or dtype.
    """
    # Lone surrogates (from names that are not UTF-8) cannot be encoded; they are written as escapes.
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
