"""From the files into the model: tensor by tensor, each straight into the memory it will stay in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import torch
from torch import nn

from llmcli.checkpoint.foresight import Wish, foresee
from llmcli.checkpoint.opened import Checkpoint, meta_model
from llmcli.checkpoint.packing import (
    Packing,
    block_packer,
    make_room,
    memory_for_weights,
    planned_bits,
    read_packed,
)
from llmcli.checkpoint.tensors import TensorReader
from llmcli.device import one_thread
from llmcli.model import Transformer
from llmcli.model.packed import PackedMatrix


def load_weights(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
    *,
    packing: Packing | None = None,
    context: int | None = None,
    may_pack: bool = True,
) -> Transformer:
    """Build the model on `device` with every parameter in `dtype`; `progress` hears bytes read and bytes in all.

    With `packing`, large matrices are packed instead and compute in `dtype`. Peak memory is the weights as they are
    kept and one chunk for each core, whatever the file's own format. Whether they fit, with a cache for a `context` of
    so many tokens, is seen beforehand; `may_pack` says whether packing them is worth offering where they do not.

    Raises:
        CheckpointError: a file ends too early or cannot be read.
        OutOfMemoryError: there is no room for the model.
    """
    model = meta_model(checkpoint.config)
    foresee(model, checkpoint, Wish(device, dtype, packing, context, may_pack))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    total, done = sum(map(checkpoint.stored_bytes, shapes)), 0
    stopped = threading.Event()
    packed = make_room(model, planned_bits(model, packing, checkpoint), dtype, device)
    packer = block_packer() if packed else None

    def read(name: str, values: torch.Tensor | PackedMatrix, reader: TensorReader) -> str:
        if stopped.is_set():
            return name
        if isinstance(values, PackedMatrix):
            read_packed(checkpoint.sources[name], checkpoint.tensors, reader, values, packer)
        else:
            checkpoint.sources[name].read_into(checkpoint.tensors, reader, values)
            _assign(model, name, values.to(device))
        return name

    def room(name: str) -> torch.Tensor | PackedMatrix:
        return packed[name] if name in packed else _allocate(shapes[name], dtype)

    with memory_for_weights(total), TensorReader() as reader, _one_thread_a_tensor() as pool:
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
def _one_thread_a_tensor() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each of them computing alone.

    Workers that never wait for each other keep their pace when another program wants a core too; threads that share
    every operation stand still together (six times slower, measured on a busy machine).
    """
    pool = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    with one_thread(), pool:
        yield pool


def _allocate(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    with memory_for_weights(shape.numel() * dtype.itemsize):
        return torch.empty(shape, dtype=dtype)


def _assign(model: Transformer, name: str, values: torch.Tensor) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, nn.Parameter(values, requires_grad=False))
