"""Which stored weights change when they are packed: those that are rounded, and those that are decoded.

By encoding, from the headers alone, without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.tensors.dtypes import CODES_KEPT, NUMBERS


@dataclass(frozen=True)
class ChangedEncodings:
    """Names of encodings, sorted."""

    rounded: tuple[str, ...]
    """Rounded to 8 bits, because packed weights cannot hold their codes."""
    decoded: tuple[str, ...]
    """Decoded to the dtype of the computation."""


def changed_encodings(checkpoint: Checkpoint, *, packed: bool) -> ChangedEncodings:
    """The encodings of the checkpoint's weights that are not kept; without `packed` all quantized ones are decoded."""
    rounded: set[str] = set()
    decoded: set[str] = set()
    for name in {name for source in checkpoint.sources.values() for name in source.names}:
        tensor = checkpoint.tensors[name]
        if tensor.encoding in NUMBERS:
            continue
        if not packed or (isinstance(tensor, QuantizedTensor) and tensor.groups is None):
            decoded.add(tensor.encoding)
        elif not isinstance(tensor, QuantizedTensor) and tensor.encoding not in CODES_KEPT:
            rounded.add(tensor.encoding)
    return ChangedEncodings(tuple(sorted(rounded)), tuple(sorted(decoded)))
