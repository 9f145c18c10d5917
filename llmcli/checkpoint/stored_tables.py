"""Tables of embeddings that stay in the bits of their file (`StoredEmbedding`): which, and reading them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.parameter_sources import Joined, Source
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.model.quantized.stored_embedding import StoredFormat

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.tensors.reader import TensorReader
    from llmcli.model.quantized.stored_embedding import StoredEmbedding

# Read by few rows for each token, and perhaps larger than all other weights together.
_TABLES = re.compile(r"per_layer_embeddings\.embed_tokens\.weight|layers\.\d+\.ngram\.table\.weight")
# Bytes read at a time, so that an interruption is noticed soon.
_BYTES_AT_ONCE = 1 << 26


def is_table(parameter: str) -> bool:
    """Whether a parameter is such a table."""
    return _TABLES.fullmatch(parameter) is not None


def stored_tables(checkpoint: Checkpoint) -> dict[str, StoredFormat]:
    """The tables of a checkpoint that can stay as they are stored, by parameter name."""
    found = {}
    for parameter in filter(is_table, checkpoint.sources):
        if tensors := _stored_tensors(checkpoint, parameter):
            encoding = ENCODINGS[tensors[0].encoding]
            found[parameter] = StoredFormat(tensors[0].encoding, encoding.block_size, encoding.block_bytes)
    return found


def read_table(
    checkpoint: Checkpoint, parameter: str, reader: TensorReader, to: StoredEmbedding, stopped: Callable[[], bool]
) -> None:
    """Fill `to` with the bytes of a table; stops early if `stopped` says so.

    Raises:
        CheckpointError: the file ends too early or cannot be read.
    """
    step = max(1, _BYTES_AT_ONCE // to.stored.shape[1])
    filled = 0
    for tensor in _stored_tensors(checkpoint, parameter):
        for start in range(0, tensor.rows, step):
            if stopped():
                return
            stop = min(start + step, tensor.rows)
            rows = to.stored[filled + start : filled + stop]
            read = rows if rows.device.type == "cpu" else torch.empty(rows.shape, dtype=torch.uint8)
            reader.read_bytes(tensor, start, stop, read)
            if read is not rows:
                rows.copy_(read)
        filled += tensor.rows


def _stored_tensors(checkpoint: Checkpoint, parameter: str) -> list[TensorInfo]:
    """The stored tensors that are the whole table, one below the other.

    None if the table is read in another way, if its rows are not whole blocks, or if the encodings differ.
    """
    source = checkpoint.sources[parameter]
    parts = source.parts if isinstance(source, Joined) else (source,)
    tensors = []
    for part in parts:
        if not isinstance(part, Source) or part.ranges is not None or part.pairs is not None:
            return []
        tensor = checkpoint.tensors[part.name]
        if not isinstance(tensor, TensorInfo) or len(tensor.shape) != 2 or tensor.encoding not in ENCODINGS:
            return []
        tensors.append(tensor)
    encoding = ENCODINGS[tensors[0].encoding]
    whole = all(tensor.row_length % encoding.block_size == 0 for tensor in tensors)
    alike = len({tensor.encoding for tensor in tensors}) == 1
    return tensors if whole and alike and encoding.is_floating_point else []
