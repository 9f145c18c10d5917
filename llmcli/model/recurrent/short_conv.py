"""The gated short convolution of LFM2 (arXiv:2511.23404).

Dimension letters: B batch, T new tokens, S inputs seen, W width of the convolution, C hidden size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import ModelConfig
from llmcli.model.mixer_config import ShortConvConfig
from llmcli.model.recurrent.causal_conv import CausalConv


class ShortConv(nn.Module):
    """Each channel mixes its last W inputs; one gate multiplies the inputs, another the outputs.

    It sees only the last W tokens, so its inputs are cached by position, like keys of attention with a window.
    """

    def __init__(self, config: ModelConfig, mixer: ShortConvConfig, index: int) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, mixer.bias
        self.index, self.before = index, mixer.width - 1
        self.in_proj = nn.Linear(hidden, 3 * hidden, bias=bias)
        self.conv = CausalConv(hidden, mixer.width, bias=bias, activation=None)
        self.out_proj = nn.Linear(hidden, hidden, bias=bias)

    def forward(self, x: Tensor, _place: Positions, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        in_gate, out_gate, values = self.in_proj(x).chunk(3, dim=-1)
        values = in_gate * values
        mixed, _ = self.conv(values, None if cache is None else self._tail(values, cache))
        projected: Tensor = self.out_proj(out_gate * mixed)
        return projected

    def _tail(self, values: Tensor, cache: LayerCache) -> Tensor:
        """The inputs of the W - 1 tokens before, (B, W - 1, C): zeros before the text."""
        keys = values[:, None]  # (B, 1, T, C)
        seen = cache.append(self.index, keys, keys[..., :0])[0][:, 0]  # (B, S, C)
        earlier = seen[:, : seen.shape[1] - values.shape[1]]
        return F.pad(earlier, (0, 0, self.before - earlier.shape[1], 0))
