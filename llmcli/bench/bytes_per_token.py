"""The bytes that a decode step must read from memory: weights, and keys and values."""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmcli.bench.plan import Sizes
from llmcli.bench.results import ModelFacts
from llmcli.bench.shapes import RANDOM
from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing, planned_formats
from llmcli.checkpoint.memory_estimate import parameter_bytes
from llmcli.inspection.evaluation.flops import account
from llmcli.model import ModelConfig
from llmcli.model.meta_device import meta_model
from llmcli.model.parameters import used_by_a_token

_KV_VALUE_BYTES = 2
_CPU = torch.device("cpu")


def model_facts(
    checkpoint: Checkpoint,
    sizes: Sizes,
    *,
    dtype: torch.dtype = torch.bfloat16,
    packing: Packing | None = None,
    device: torch.device = _CPU,
) -> ModelFacts:
    """Facts about a model from the headers of its files, without reading weights.

    Bytes per token are those of the weights as stored in the files or, with a `packing`, as kept on the `device`.
    """
    config, counted = checkpoint.config, account(checkpoint)
    weights = weight_bytes_per_token(checkpoint)
    if packing is not None:
        weights = _read_by_a_token(config, _kept(config, dtype, packing, checkpoint, device).__getitem__)
    return ModelFacts(
        name=checkpoint.name,
        path=str(checkpoint.path),
        format=checkpoint.format,
        parameters=counted.parameters,
        context_length=config.context_length,
        stored_bytes=sum(counted.stored_bytes.values()),
        weight_bytes_per_token=weights,
        bytes_per_token=_with_cache(config, weights, sizes),
    )


def shape_facts(
    name: str,
    config: ModelConfig,
    sizes: Sizes,
    *,
    dtype: torch.dtype,
    packing: Packing | None,
    device: torch.device = _CPU,
) -> ModelFacts:
    """Facts about a model with random weights, kept in `dtype` or packed."""
    kept = _kept(config, dtype, packing, None, device)
    weights = _read_by_a_token(config, kept.__getitem__)
    return ModelFacts(
        name=name,
        path="",
        format=RANDOM,
        parameters=sum(parameter.numel() for parameter in meta_model(config).parameters()),
        context_length=config.context_length,
        stored_bytes=sum(kept.values()),
        weight_bytes_per_token=weights,
        bytes_per_token=_with_cache(config, weights, sizes),
        random_weights=True,
    )


def weight_bytes_per_token(checkpoint: Checkpoint) -> int:
    """Bytes in the files of all weights that one decode step reads."""
    return _read_by_a_token(checkpoint.config, checkpoint.stored_bytes)


def _kept(
    config: ModelConfig,
    dtype: torch.dtype,
    packing: Packing | None,
    checkpoint: Checkpoint | None,
    device: torch.device,
) -> dict[str, int]:
    model = meta_model(config)
    return parameter_bytes(model, planned_formats(model, packing, checkpoint, device), dtype)


def _with_cache(config: ModelConfig, weights: int, sizes: Sizes) -> dict[int, int]:
    """Bytes of weights and KV cache that a decode step reads, half-way through each reply."""
    return {
        context: weights + config.kv_bytes(max(context, 1) + sizes.tokens // 2, _KV_VALUE_BYTES)
        for context in sizes.contexts
    }


def _read_by_a_token(config: ModelConfig, nbytes: Callable[[str], int]) -> int:
    """Bytes of all weights that one decode step reads; `nbytes` gives the bytes of a parameter by name."""
    total = 0
    for name, _ in meta_model(config).named_parameters():
        if "embed_" in name and not (name == "embed_tokens.weight" and config.tie_embeddings):
            continue  # a step reads one row
        total += used_by_a_token(config, name, nbytes(name))
    return total
