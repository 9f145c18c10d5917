"""From the files into the model: tensor by tensor, each straight into the memory it will stay in.

What is for another device than the CPU goes there through a ring of buffers, and is put in order there.
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
    block_packer,
    make_room,
    memory_for_weights,
    planned_formats,
    read_packed,
)
from llmcli.checkpoint.memory_estimate import LoadRequest, check_memory
from llmcli.checkpoint.pinned_staging import Ring, fetching_to, stream, streamed_spans
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.row_spans import RowSpan
from llmcli.device import one_thread
from llmcli.model import Transformer
from llmcli.model.meta_device import meta_model
from llmcli.model.parameters import parameters_of
from llmcli.model.quantized.matrix import PackedMatrix

# Threads that read for a device: each copies 5 GB/s or more out of the file cache, and a bus takes no more than 50.
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
) -> Transformer:
    """Build the model on `device` with its parameters in `dtype`; `progress` hears bytes read and bytes in all.

    Those that `parameters_of` says are kept in float32 stay so.

    With `packing`, large matrices are packed instead and compute in `dtype`. Peak memory is the weights as they are
    kept and one chunk for each core, whatever the file's own format. Whether they fit, with a cache for a `context` of
    so many tokens, is seen beforehand; `may_pack` says whether packing them is worth offering where they do not.

    Raises:
        CheckpointError: a file ends too early or cannot be read.
        OutOfMemoryError: there is no room for the model.
    """
    model = meta_model(checkpoint.config)
    check_memory(model, checkpoint, LoadRequest(device, dtype, packing, context, may_pack))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    dtypes = {name: torch.float32 if one.float32 else dtype for name, one in parameters_of(checkpoint.config).items()}
    total, done = sum(map(checkpoint.stored_bytes, shapes)), 0
    stopped = threading.Event()
    packed = make_room(model, planned_formats(model, packing, checkpoint, device, sizes), dtype, device)
    here = _is_main_memory(device)
    packer = block_packer() if packed and here else None
    threads = torch.get_num_threads() if here else _DEVICE_READERS
    ring = Ring(fetching_to(device), 2 * threads)
    dense = [name for name in shapes if name not in packed]
    streamed = {} if here else _streamed(checkpoint, dense, ring)

    def read(name: str, values: torch.Tensor | PackedMatrix, reader: TensorReader) -> str:
        if stopped.is_set():
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

    def room(name: str) -> torch.Tensor | PackedMatrix:
        if name in packed:
            return packed[name]
        return _allocate(shapes[name], dtypes[name], device if name in streamed else torch.device("cpu"))

    with memory_for_weights(total), TensorReader() as reader, _one_thread_a_tensor(threads) as pool:
        try:
            # Memory that stays is had before the workers' own comes and goes, which would leave gaps between.
            jobs = [pool.submit(read, name, room(name), reader) for name in shapes]
            for future in as_completed(jobs):
                done += checkpoint.stored_bytes(future.result())
                if progress is not None:
                    progress(done, total)
        finally:
            # After an error or Ctrl-C the tensors not yet begun are not begun.
            stopped.set()
    if checkpoint.config.tie_embeddings and "embed_tokens.weight" not in packed:
        setattr(model.lm_head, "weight", model.embed_tokens.weight)  # noqa: B010
    return model.to(device).eval()


@contextmanager
def _one_thread_a_tensor(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many workers, each of them computing alone.

    Workers that never wait for each other keep their pace when another program wants a core too; threads that share
    every operation stand still together (six times slower, measured on a busy machine).
    """
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with one_thread(), pool:
        yield pool


def _is_main_memory(device: torch.device) -> bool:
    """Files are read straight into what the device computes with."""
    return device.type == "cpu"


def _streamed(checkpoint: Checkpoint, names: list[str], ring: Ring) -> dict[str, list[RowSpan]]:
    """The parameters that go through the ring as they are stored, and the rows they are made of."""
    found = {name: streamed_spans(checkpoint.sources[name], checkpoint.tensors, ring) for name in names}
    return {name: spans for name, spans in found.items() if spans}


def _allocate(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with memory_for_weights(shape.numel() * dtype.itemsize):
        return torch.empty(shape, dtype=dtype, device=device)


def _assign(model: Transformer, name: str, values: torch.Tensor) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, nn.Parameter(values, requires_grad=False))
