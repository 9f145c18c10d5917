"""Load a checkpoint into a `Transformer`: tensor by tensor, each straight into its final memory.

For devices other than the CPU, dense tensors pass through a ring of pinned buffers and are reordered on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import torch
from torch import nn

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import (
    PACKING_SIZES,
    Packing,
    PackingSizes,
    attach_packed_matrices,
    attach_stored_tables,
    memory_for_weights,
    planned_formats,
)
from llmcli.checkpoint.memory_estimate import LoadRequest, check_memory, kept_dtype
from llmcli.checkpoint.pinned_staging import Ring, device_copy, stream, streamed_spans
from llmcli.checkpoint.read_packed import block_packer, read_packed
from llmcli.checkpoint.stored_tables import read_table
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.row_spans import RowSpan
from llmcli.device import one_thread
from llmcli.model import ModelConfig, Transformer
from llmcli.model.meta_device import meta_model
from llmcli.model.parameters import parameters_of
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.model.quantized.stored_embedding import StoredEmbedding, StoredFormat

# Threads that read for a device: each copies 5 GB/s or more out of the file cache, and a bus transfers at most 50 GB/s.
_DEVICE_READERS = 8


def load_weights(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
    *,
    packing: Packing | None = None,
    context: int | None = None,
    may_pack: bool = True,
    sizes: PackingSizes = PACKING_SIZES,
    kind: Callable[[ModelConfig], Transformer] = Transformer,
) -> Transformer:
    """Build the model on `device` with its parameters in `dtype`; parameters that must be float32 stay float32.

    The model is made by `kind`. `progress` is called with the bytes read and the total. With `packing`, large
    matrices are packed and compute in `dtype`. Peak memory is the final weights plus one chunk for each core, whatever
    the file's format. Before anything is allocated, checks that the weights and a cache of `context` tokens fit; if
    not, `may_pack` says whether the error may suggest packing.

    Raises:
        CheckpointError: a file ends too early or cannot be read.
        OutOfMemoryError: the model does not fit into memory.
    """
    model = meta_model(checkpoint.config, kind)
    check_memory(model, checkpoint, LoadRequest(device, dtype, packing, context, may_pack))
    planned = planned_formats(model, packing, checkpoint, device, sizes)
    in_files = {name for name, kept in planned.items() if isinstance(kept, StoredFormat) and kept.in_file}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name not in in_files}
    dtypes = {name: kept_dtype(one, dtype) for name, one in parameters_of(checkpoint.config).items()}
    total, done = sum(map(checkpoint.stored_bytes, shapes)), 0
    stopped = threading.Event()
    packed = attach_packed_matrices(model, planned, dtype, device)
    tables = attach_stored_tables(model, planned, checkpoint, dtype, device)
    in_main_memory = _is_main_memory(device)
    packer = block_packer() if packed and in_main_memory else None
    threads = torch.get_num_threads() if in_main_memory else _DEVICE_READERS
    ring = Ring(device_copy(device), 2 * threads)
    dense = [name for name in shapes if name not in packed and name not in tables]
    streamed = {} if in_main_memory else _streamed(checkpoint, dense, ring)

    def read(name: str, values: torch.Tensor | PackedMatrix | StoredEmbedding, reader: TensorReader) -> str:
        if stopped.is_set():
            return name
        if isinstance(values, StoredEmbedding):
            read_table(checkpoint, name, reader, values, stopped.is_set)
            return name
        if isinstance(values, PackedMatrix):
            read_packed(checkpoint.sources[name], checkpoint.tensors, reader, values, packer, sizes)
        elif name in streamed:
            stream(streamed[name], reader, values, ring)
            _assign(model, name, values)
        else:
            checkpoint.sources[name].read_into(checkpoint.tensors, reader, values)
            _assign(model, name, values.to(device))
        return name

    def allocate(name: str) -> torch.Tensor | PackedMatrix | StoredEmbedding:
        if name in tables:
            return tables[name]
        if name in packed:
            return packed[name]
        return _allocate(shapes[name], dtypes[name], device if name in streamed else torch.device("cpu"))

    with memory_for_weights(total), TensorReader() as reader, _single_thread_workers(threads) as pool:
        try:
            # Allocate parameters first: interleaving them with temporaries would fragment the heap.
            jobs = [pool.submit(read, name, allocate(name), reader) for name in shapes]
            for future in as_completed(jobs):
                done += checkpoint.stored_bytes(future.result())
                if progress is not None:
                    progress(done, total)
        finally:
            # After an error or Ctrl-C, tensors that wait in the queue are skipped.
            stopped.set()
    if checkpoint.config.tie_embeddings and "embed_tokens.weight" not in packed:
        setattr(model.lm_head, "weight", model.embed_tokens.weight)  # noqa: B010
    return model.to(device).eval()


@contextmanager
def _single_thread_workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `threads` workers, each of them computing with one thread.

    Workers that never wait for each other keep their speed when another program uses a core; threads that share every
    operation all wait for the slowest (six times slower, measured on a busy machine).
    """
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with one_thread(), pool:
        yield pool


def _is_main_memory(device: torch.device) -> bool:
    """Whether weights are read straight into the memory that the device computes with."""
    return device.type == "cpu"


def _streamed(checkpoint: Checkpoint, names: list[str], ring: Ring) -> dict[str, list[RowSpan]]:
    """The parameters that go through the ring, with the stored rows each is made of."""
    found = {name: streamed_spans(checkpoint.sources[name], checkpoint.tensors, ring) for name in names}
    return {name: spans for name, spans in found.items() if spans}


def _allocate(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with memory_for_weights(shape.numel() * dtype.itemsize):
        return torch.empty(shape, dtype=dtype, device=device)


def _assign(model: Transformer, name: str, values: torch.Tensor) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, nn.Parameter(values, requires_grad=False))
