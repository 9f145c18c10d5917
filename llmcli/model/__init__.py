"""The readable model in PyTorch: start here to learn how a language model works.

Token -> embedding -> blocks of attention and feed-forward around a residual stream -> norm -> logits: `transformer.py`
holds the whole path and `block.py` one layer of it. `attention/attention.py` (with `scaled_dot_product.py`, the
softmax, and `rope.py`), `feed_forward.py`, `norm.py` and `cache/kv_cache.py` are one box of the diagram each. Some
models have `attention/latent_attention.py` or `attention/shared_row_attention.py`, and `mixture_of_experts.py` or
`experts_beside.py` in their place, others `recurrent/` in place of attention, or besides the boxes of `residual/`.
`config.py` and the other files of configurations beside it hold the sizes and options. Nothing here depends on files or
on the names of model families.
"""

from typing import TYPE_CHECKING

from llmcli.model.config import (
    Alibi,
    AttentionGate,
    BlockIndexConfig,
    ClampedGLU,
    ExpertsConfig,
    HeadLayer,
    Heads,
    KeyIndexConfig,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
    QueryScaling,
)
from llmcli.model.residual_config import (
    AltupConfig,
    GatedResidualConfig,
    HyperConfig,
    NgramConfig,
    PerLayerConfig,
)
from llmcli.model.rope_config import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)

if TYPE_CHECKING:
    from llmcli.model.cache.kv_cache import KVCache
    from llmcli.model.transformer import Transformer

__all__ = [
    "Alibi",
    "AltupConfig",
    "AttentionGate",
    "BlockIndexConfig",
    "ClampedGLU",
    "DynamicScaling",
    "ExpertsConfig",
    "FrequencyFactors",
    "GatedResidualConfig",
    "HeadLayer",
    "Heads",
    "HyperConfig",
    "KVCache",
    "KeyIndexConfig",
    "LatentConfig",
    "LayerConfig",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "ModelConfig",
    "NgramConfig",
    "NormStyle",
    "PerLayerConfig",
    "QueryScaling",
    "RopeConfig",
    "RopeScaling",
    "Transformer",
    "YarnScaling",
]


def __getattr__(name: str) -> object:
    # Imported on first use: reading a model's configuration must not import torch.
    if name == "KVCache":
        from llmcli.model.cache.kv_cache import KVCache

        return KVCache
    if name == "Transformer":
        from llmcli.model.transformer import Transformer

        return Transformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
