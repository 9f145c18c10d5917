"""Configurations with the sizes of published models."""

from __future__ import annotations

from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig


def config(layers: int = 2, layer: LayerConfig | None = None, **changes: object) -> ModelConfig:
    sizes = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "num_kv_heads": 2,
        "head_dim": 8, "context_length": 64, "norm_eps": 1e-5,
    }  # fmt: skip
    return ModelConfig(**{**sizes, "layers": (layer or LayerConfig(None),) * layers, **changes})  # type: ignore[arg-type]


SMOLLM2 = config(
    30, vocab_size=49152, hidden_size=576, intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64,
    context_length=8192, tie_embeddings=True,
)  # fmt: skip
LLAMA3_8B = config(
    32, vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128,
    context_length=8192,
)  # fmt: skip
MIXTRAL_8X7B = config(
    32, LayerConfig(None, experts=ExpertsConfig(8, 2, 14336)), vocab_size=32000, hidden_size=4096,
    intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128, context_length=32768,
)  # fmt: skip
