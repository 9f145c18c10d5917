"""Tiny random models with gated delta nets, attention and either a short convolution or n-grams, without files."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmcli.engine import Engine
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.model import (
    BlockIndexConfig,
    GatedResidualConfig,
    LayerConfig,
    ModelConfig,
    NgramConfig,
    RopeConfig,
    Transformer,
)
from llmcli.model.mixer_config import DeltaConfig, ShortConvConfig
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.tiny import VOCABULARY, byte_tokenizer

DELTA = LayerConfig(None, mixer=DeltaConfig(2, 4, 8, 8, 4))
HYBRID = ModelConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2, head_dim=8,
    context_length=4096, norm_eps=1e-5,
    layers=(DELTA, LayerConfig(RopeConfig(1e4, 8)), DELTA, LayerConfig(None, window=3, mixer=ShortConvConfig(3))),
)  # fmt: skip
_SPARSE = LayerConfig(RopeConfig(1e4, 4), block_index=BlockIndexConfig(heads=8, size=5, block=4, chosen=6))
_NGRAM = NgramConfig(24, (3, 77, 1001), (53, 59, 61, 67), rows=256, boundary=0, conv_width=3)
GATED_STREAMS = replace(
    HYBRID,
    gated_residual=GatedResidualConfig(streams=3, rank=8),
    layers=(DELTA, _SPARSE, replace(DELTA, ngram=_NGRAM), _SPARSE),
)
"""Several streams, n-grams, and attention to few blocks."""


def hybrid_model(seed: int = 0, config: ModelConfig = HYBRID) -> Transformer:
    """The model; its memory fades slowly enough that a text's beginning matters."""
    torch.manual_seed(seed)
    model = Transformer(config).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(".A"):
            parameter.uniform_(-0.1, -0.01)
        elif name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, 0.1)
    # Some tokens repeat, so that lookup finds matches.
    model.lm_head.weight.copy_(0.7 * model.embed_tokens.weight + 0.3 * model.lm_head.weight)
    return model.eval()


def prefix_cache(model: Transformer) -> PrefixCache:
    """A new cache of that model, which the readable model fills."""
    return PrefixCache(model, context_length=HYBRID.context_length, vocab_size=HYBRID.vocab_size)


def hybrid_engine(model: Transformer, **options: object) -> Engine:
    """An engine whose tokens are bytes."""
    return Engine(model, Tokenizer(byte_tokenizer(), {}, source="made"), **options)  # type: ignore[arg-type]
