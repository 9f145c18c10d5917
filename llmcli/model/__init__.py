"""The model itself: what a reader of "how language models work" opens first.

Token -> embedding -> blocks of attention and feed-forward around a residual stream -> norm -> logits: `transformer.py`
holds the whole path and `block.py` one layer of it; `attention.py` (with `attend.py`, the softmax), `rope.py`,
`feed_forward.py`, `norm.py` and `cache.py` are one box each, `latent_attention.py` and `experts.py` the boxes that
some models have in their place, `config.py` the numbers. Nothing here knows about files or the names of families.
"""

from llmcli.model.cache import KVCache
from llmcli.model.config import (
    ClampedGLU,
    ExpertsConfig,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    NormStyle,
    QueryScaling,
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
from llmcli.model.transformer import Transformer

__all__ = [
    "ClampedGLU",
    "DynamicScaling",
    "ExpertsConfig",
    "FrequencyFactors",
    "KVCache",
    "LatentConfig",
    "LayerConfig",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "ModelConfig",
    "NormStyle",
    "QueryScaling",
    "RopeConfig",
    "RopeScaling",
    "Transformer",
    "YarnScaling",
]
