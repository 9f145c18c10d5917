"""Rules of model families for sizes that differ from layer to layer: heads, and the width of feed-forward networks.

For each layer they return its shape, or None for that of `ModelConfig`.
"""

from __future__ import annotations

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.model import Heads


def same_heads(keys: ConfigKeys, kinds: list[str]) -> list[Heads | None]:
    """All layers have the same heads."""
    return [None] * len(kinds)


def same_widths(keys: ConfigKeys, layers: int) -> list[int | None]:
    """All feed-forward networks have the same size."""
    return [None] * layers
