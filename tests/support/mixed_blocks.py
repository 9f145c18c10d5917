"""Tiny random models whose blocks differ in kind, made without files, with the tokenizer of a tiny checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import llmcli
from llmcli.model import LayerConfig, ModelConfig, Transformer
from llmcli.model.mixer_config import DeltaConfig, Mamba2Config, MambaConfig, ShortConvConfig
from llmcli.model.rope_config import RopeConfig
from tests.support.models.tiny import save, tiny_model

DELTA = DeltaConfig(2, 4, 6, 5, 4)
KIMI = DeltaConfig(2, 2, 6, 6, 4, decay="channel", gate="sigmoid", gate_rank=4)
MAMBA2 = Mamba2Config(4, 6, 2, 5, 4)
MAMBA = MambaConfig(20, 6, 3, 4)
CONV = ShortConvConfig(3)


def attention() -> LayerConfig:
    return LayerConfig(RopeConfig(theta=10_000.0, rotary_dim=8))


def hybrid_model(folder: Path, *layers: LayerConfig) -> llmcli.LoadedModel:
    """A model with these blocks in float32; `folder` gets the checkpoint whose tokenizer it has."""
    save(tiny_model("llama"), folder)
    loaded = llmcli.load(folder, dtype="float32")
    config = ModelConfig(
        vocab_size=loaded.config.vocab_size, hidden_size=32, intermediate_size=24, num_heads=4, num_kv_heads=2,
        head_dim=8, context_length=512, norm_eps=1e-5, layers=layers,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Transformer(config).float().requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        kind = name.rpartition(".")[2]
        if "norm" in name:
            parameter.fill_(1.0)
        elif kind == "A":
            parameter.uniform_(-1.0, -0.05)
        else:
            parameter.normal_(std=0.3)
    return replace(loaded, config=config, model=model)
