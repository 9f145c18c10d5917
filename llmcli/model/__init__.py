"""The model itself: what a reader of "how language models work" opens first.

Token -> embedding -> blocks of attention and feed-forward around a residual stream -> norm -> logits:
`transformer.py` holds the whole path, `attention.py`, `rope.py`, `feed_forward.py`, `norm.py` and `cache.py` one box
each, `config.py` the numbers. Nothing here knows about files or about the names of model families.
"""

from llmcli.model.cache import KVCache
from llmcli.model.config import (
    FrequencyFactors,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)
from llmcli.model.transformer import Transformer

__all__ = [
    "FrequencyFactors",
    "KVCache",
    "LayerConfig",
    "LinearScaling",
    "Llama3Scaling",
    "ModelConfig",
    "RopeConfig",
    "RopeScaling",
    "Transformer",
    "YarnScaling",
]
