"""A tiny random model with compressed blocks, hyper-connections and experts by token, made without files."""

from __future__ import annotations

import torch

from llmcli.engine import Engine
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.model import (
    ExpertsConfig,
    HyperConfig,
    KeyIndexConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
    RopeConfig,
    Transformer,
)
from llmcli.model.shared_row_config import BlocksConfig, SharedRowConfig
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.tiny import VOCABULARY, byte_tokenizer

EXPERTS = ExpertsConfig(
    8, 2, 16, score="sqrt_softplus", normalized=True, selection_bias=True, limit=0.5, shared_size=16
)
TABLE = ExpertsConfig(8, 2, 16, score="sqrt_softplus", normalized=True, by_token=True, limit=0.5, shared_size=16)
INDEX = KeyIndexConfig(16, 12, 3)
SLIDING = LayerConfig(RopeConfig(1e4, 8), window=9, experts=TABLE, sinks=True)
SPARSE = LayerConfig(
    RopeConfig(16e4, 8), window=9, experts=EXPERTS, sinks=True, blocks=BlocksConfig(4, overlapping=True), index=INDEX
)
HEAVY = LayerConfig(RopeConfig(16e4, 8), window=9, experts=EXPERTS, sinks=True, blocks=BlocksConfig(16))
COMPRESSED = ModelConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=1, head_dim=16,
    context_length=4096, norm_eps=3e-4, layers=(SLIDING, SPARSE, HEAVY, SPARSE),
    norm=NormStyle(round_first=False, float32=True), shared_row=SharedRowConfig(12, 2, 6),
    hyper=HyperConfig(3, 5, 1e-6),
)  # fmt: skip


def compressed_model(seed: int = 0) -> Transformer:
    """The model."""
    torch.manual_seed(seed)
    model = Transformer(COMPRESSED).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("tid2eid"):
            parameter.copy_(torch.rand(VOCABULARY, 8).argsort()[:, :2])
        elif name.endswith(("norm.weight", "scale")):
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, 0.15)
    return model.eval()


def compressed_cache(model: Transformer) -> PrefixCache:
    """A new cache of that model, which the readable model fills."""
    return PrefixCache(model, context_length=COMPRESSED.context_length, vocab_size=VOCABULARY)


def compressed_engine(model: Transformer, **options: object) -> Engine:
    """An engine whose tokens are bytes."""
    return Engine(model, Tokenizer(byte_tokenizer(), {}, source="made"), **options)  # type: ignore[arg-type]
