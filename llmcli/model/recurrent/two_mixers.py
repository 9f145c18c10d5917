"""Two networks that read the same tokens in place of one, as in Falcon-H1 (arXiv:2507.22448)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.kv_cache import LayerCache


class TwoMixers(nn.Module):
    """Attention and a recurrent network, for example, whose outputs are added."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor, place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        first, second = (part(x, place, cache) for part in self.children())
        total: Tensor = first + second
        return total
