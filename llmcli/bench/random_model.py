"""Models with random weights, made directly on the device without files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from llmcli.api import why_readable
from llmcli.bench.shapes import RANDOM
from llmcli.checkpoint.load_packed import Packing, attach_packed_matrices, planned_formats
from llmcli.checkpoint.memory_estimate import LoadRequest, check_memory, kept_dtype
from llmcli.loaded_model import LoadedModel
from llmcli.model import ModelConfig
from llmcli.model.meta_device import meta_model
from llmcli.model.parameter_info import ParameterInfo
from llmcli.model.parameters import parameters_of
from llmcli.model.quantized.layout import ROWS
from llmcli.model.quantized.matrix import Groups, PackedMatrix
from llmcli.text.tokenizer import Tokenizer

# Random codes generated at a time.
_VALUES_AT_ONCE = 1 << 22


def random_model(
    name: str, config: ModelConfig, device: torch.device, dtype: torch.dtype, packing: Packing | None = None
) -> LoadedModel:
    """Make a model with random weights, to measure speed; its replies are meaningless.

    Activations neither vanish nor overflow: matrices have mean 0 and variance 1 / columns. They are in `dtype` or
    packed.

    Raises:
        OutOfMemoryError: the weights do not fit in memory.
    """
    model, kept = meta_model(config), parameters_of(config)
    check_memory(model, None, LoadRequest(device, dtype, packing), name=f"{name} of random weights")
    packed = attach_packed_matrices(model, planned_formats(model, packing, None, device), dtype, device)
    with torch.inference_mode(mode=False), torch.no_grad():
        for matrix in packed.values():
            _fill_packed(matrix)
        for path, parameter in list(model.named_parameters()):
            if parameter.device.type == "meta":
                owner, _, attribute = path.rpartition(".")
                values = _random(path, kept[path], device, kept_dtype(kept[path], dtype))
                setattr(model.get_submodule(owner), attribute, nn.Parameter(values, requires_grad=False))
    if config.tie_embeddings and "embed_tokens.weight" not in packed:
        setattr(model.lm_head, "weight", model.embed_tokens.weight)  # noqa: B010
    return LoadedModel(
        name=name,
        source=Path(RANDOM),
        config=config,
        model=model.eval(),
        tokenizer=stub_tokenizer(config.vocab_size),
        template=None,
        declared_stop_ids={},
        generation_defaults={},
        notes=(),
        packing=packing,
        why_readable=why_readable(config, device),
    )


def stub_tokenizer(vocabulary: int) -> Tokenizer:
    """A tokenizer with a token for each byte, and numbers as the remaining tokens of the vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:vocabulary]
    pieces = {letter: index for index, letter in enumerate(letters)}
    pieces |= {f"Ġ{index}": index for index in range(len(letters), vocabulary)}
    backend = Backend(models.BPE(pieces, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, {}, source=RANDOM)


def _random(path: str, parameter: ParameterInfo, device: torch.device, dtype: torch.dtype) -> Tensor:
    if parameter.below is not None:
        return torch.arange(parameter.values, device=device).view(parameter.shape) % parameter.below
    values = torch.empty(parameter.shape, dtype=dtype, device=device)
    if len(parameter.shape) > 1:
        return values.normal_(0, 1 / math.sqrt(parameter.shape[-1]))
    return values.fill_(1 if "norm" in path else 0)


def _fill_packed(matrix: PackedMatrix) -> None:
    device, levels = matrix.blocks.device, 1 << matrix.bits
    # The variance of uniformly distributed integers from 0 to L - 1 is (L^2 - 1) / 12.
    step = math.sqrt(12 / (levels * levels - 1) / matrix.columns)
    at_once = max(1, _VALUES_AT_ONCE // (matrix.columns * ROWS)) * ROWS
    for index in range(matrix.count):
        for first in range(0, matrix.rows, at_once):
            rows = min(at_once, matrix.rows - first)
            codes = torch.randint(0, levels, (rows, matrix.columns), dtype=torch.uint8, device=device)
            kept = matrix.format
            dtype = torch.float16 if kept.group else torch.float32
            scale = torch.full((rows, kept.groups(matrix.columns)), step, dtype=dtype, device=device)
            minimum = scale * ((1 - levels) / 2) if kept.bits == 4 else None
            matrix.store(index, first, Groups(codes, scale, minimum, kept.group))
