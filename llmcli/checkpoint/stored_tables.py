"""Tables of embeddings that stay in the bits of their file (`StoredEmbedding`): which, and reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.parameter_sources import Source
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.model.quantized.stored_embedding import StoredFormat

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.tensors.reader import TensorReader
    from llmcli.model.quantized.stored_embedding import StoredEmbedding

# Read by one row for each token, and in small models larger than all other weights together.
_TABLES = ("per_layer_embeddings.embed_tokens.weight",)
# Bytes read at a time, so that an interruption is noticed soon.
_BYTES_AT_ONCE = 1 << 26


def stored_tables(checkpoint: Checkpoint) -> dict[str, StoredFormat]:
    """The tables of a checkpoint that can stay as they are stored, by parameter name."""
    found = {}
    for parameter in _TABLES:
        tensor = _stored_table(checkpoint, parameter)
        if tensor is not None:
            encoding = ENCODINGS[tensor.encoding]
            found[parameter] = StoredFormat(tensor.encoding, encoding.block_size, encoding.block_bytes)
    return found


def read_table(
    checkpoint: Checkpoint, parameter: str, reader: TensorReader, to: StoredEmbedding, stopped: Callable[[], bool]
) -> None:
    """Fill `to` with the bytes of a table; stops early if `stopped` says so.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    tensor = _stored_table(checkpoint, parameter)
    assert tensor is not None
    step = max(1, _BYTES_AT_ONCE // to.stored.shape[1])
    for start in range(0, tensor.rows, step):
        if stopped():
            return
        rows = to.stored[start : start + step]
        read = rows if rows.device.type == "cpu" else torch.empty(rows.shape, dtype=torch.uint8)
        reader.read_bytes(tensor, start, start + len(rows), read)
        if read is not rows:
            rows.copy_(read)


def _stored_table(checkpoint: Checkpoint, parameter: str) -> TensorInfo | None:
    """The stored tensor that is the whole table; None if there is none, or its rows are not whole blocks."""
    source = checkpoint.sources.get(parameter)
    if not isinstance(source, Source) or source.ranges is not None or source.pairs is not None:
        return None
    tensor = checkpoint.tensors[source.name]
    if not isinstance(tensor, TensorInfo) or len(tensor.shape) != 2 or tensor.encoding not in ENCODINGS:
        return None
    encoding = ENCODINGS[tensor.encoding]
    whole = tensor.row_length % encoding.block_size == 0
    return tensor if whole and encoding.is_floating_point else None
