"""From the files into the model: tensor by tensor, each straight into the memory it will stay in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from llmcli.checkpoint.opened import Checkpoint, meta_model
from llmcli.checkpoint.tensors import TensorReader
from llmcli.errors import OutOfMemoryError
from llmcli.model import Transformer


def load_weights(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> Transformer:
    """Build the model on `device` with every parameter in `dtype`; `progress` hears bytes read and bytes in all.

    Peak memory is the weights in `dtype` and one chunk of the largest tensor, whatever the file's own format.

    Raises:
        CheckpointError: a file ends too early or cannot be read.
        OutOfMemoryError: there is no room for the weights.
    """
    model = meta_model(checkpoint.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    total, done = sum(map(checkpoint.stored_bytes, shapes)), 0
    with TensorReader() as reader:
        for name, shape in shapes.items():
            values = _allocate(shape, dtype)
            checkpoint.sources[name].read_into(checkpoint.tensors, reader, values)
            _assign(model, name, values.to(device))
            done += checkpoint.stored_bytes(name)
            if progress is not None:
                progress(done, total)
    if checkpoint.config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.to(device).eval()


def _allocate(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except (RuntimeError, MemoryError):
        size = shape.numel() * dtype.itemsize
        raise OutOfMemoryError(
            f"There is no memory for the model's weights: {size / 2**30:.1f} GiB more could not be had. "
            "Close other programs, or use a smaller model."
        ) from None


def _assign(model: Transformer, name: str, values: torch.Tensor) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, nn.Parameter(values, requires_grad=False))
