"""RWKV-4: time mixing in place of attention, and channel mixing in place of a feed-forward network (arXiv:2305.13048).

Both parts read each token together with the one before it. Time mixing is an average of the values of all tokens, for
each channel alone, in which a token's weight fades with its distance:

    y_t = (sum of exp(k_j - (t - 1 - j) w) v_j over j < t, + exp(u + k_t) v_t) / (the same without v)

Numerator and denominator are kept divided by exp(m), where m is the largest exponent so far (appendix D).

Dimension letters: B batch, T new tokens, C hidden size, D channels of time mixing, I neurons, n tokens of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig
from llmcli.model.feed_forward import PlainFeedForward
from llmcli.model.mixer_config import Rwkv4Config
from llmcli.model.recurrent.recurrence import Recurrence

# Tokens whose decays are in memory at a time.
_BLOCK = 64
# The largest exponent of a memory that nothing has been written in.
_EMPTY = -1e38


def wkv(value: Tensor, log_decay: Tensor, key: Tensor, own_key: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, D) of all tokens, and the memory (B, 3, D) after the last: numerator, denominator and m.

    `key` are the logarithms of the weights that tokens have for later ones, `own_key` of those that they have for
    themselves. They, values and logarithms of decays, none above zero, are (B, T, D) and of one type, in which all is
    computed; so is the `memory` before; None: it is empty.

    Exponents of a block of tokens are computed at once, so that single tokens only multiply and add.
    """
    if memory is None:
        memory = torch.cat((torch.zeros_like(value[:, :1]).expand(-1, 2, -1), torch.full_like(value[:, :1], _EMPTY)), 1)
    outputs = []
    for start in range(0, value.shape[1], _BLOCK):
        now = slice(start, start + _BLOCK)
        v, k, fades = value[:, now], key[:, now], log_decay[:, now]
        since_start = fades.cumsum(1)
        # Rounding does not matter here: any numbers near the maxima do, as all that follows is relative to them.
        largest = torch.maximum((k - since_start).cummax(1).values, memory[:, 2:]) + since_start  # (B, n, D)
        before = torch.cat((memory[:, 2:], largest[:, :-1]), dim=1)
        kept, written = (before + fades - largest).exp(), (k - largest).exp()
        sums = [memory[:, :2]]
        for factor, new in zip(kept.unbind(1), torch.stack((written * v, written), dim=2).unbind(1), strict=True):
            sums.append(torch.addcmul(new, factor[:, None], sums[-1]))
        earlier = torch.stack(sums[:-1], dim=1)  # (B, n, 2, D)
        own = own_key[:, now]
        most = torch.maximum(before, own)
        old, new = (before - most).exp(), (own - most).exp()
        outputs.append((old * earlier[:, :, 0] + new * v) / (old * earlier[:, :, 1] + new))
        memory = torch.cat((sums[-1], largest[:, -1:]), dim=1)
    return torch.cat(outputs, dim=1), memory


class TokenShift(nn.Module):
    """The token before each token; it has no parameters, and is a module so that views can change what it passes on."""

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) after `tail` (B, 1, C), or zeros: those before them, and the tail of the next tokens."""
        if tail is None:
            tail = torch.zeros_like(x[:, :1])
        # A copy: a slice would keep all tokens in memory.
        return torch.cat((tail, x[:, :-1]), dim=1), x[:, -1:].clone()


class TimeMixing(nn.Module):
    """Keys, values and a gate, each from its own mixture of the token and the one before, and the average above."""

    def __init__(self, config: ModelConfig, rwkv: Rwkv4Config, index: int) -> None:
        super().__init__()
        self.index, hidden, width = index, config.hidden_size, rwkv.width
        self.time_decay = nn.Parameter(torch.empty(width))  # the logarithm of w; float32, as the next, which is u
        self.time_first = nn.Parameter(torch.empty(width))
        self.time_mix_key = nn.Parameter(torch.empty(hidden))
        self.time_mix_value = nn.Parameter(torch.empty(hidden))
        self.time_mix_receptance = nn.Parameter(torch.empty(hidden))
        self.token_shift = TokenShift()
        self.key = nn.Linear(hidden, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)
        self.receptance = nn.Linear(hidden, width, bias=False)
        self.recurrence = Recurrence(wkv)
        self.output = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor, _place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        earlier, tail = self.token_shift(x, None if before is None else before.tail)
        key = self.key(_mixed(x, earlier, self.time_mix_key)).float()  # (B, T, D)
        value = self.value(_mixed(x, earlier, self.time_mix_value)).float()
        gate = torch.sigmoid(self.receptance(_mixed(x, earlier, self.time_mix_receptance)))
        log_decay = -torch.exp(self.time_decay)
        output, memory = self.recurrence(
            value,
            log_decay.expand_as(key),
            key,
            key + self.time_first,
            None if before is None else before.sum,
        )
        if cache is not None:
            cache.store(self.index, State(tail, memory))
        projected: Tensor = self.output(gate * output.to(x.dtype))
        return projected


class ChannelShift(nn.Module):
    """What channel mixing reads: each token, and behind it the one before."""

    def __init__(self, slot: int) -> None:
        """`slot` is the place of its state in the cache."""
        super().__init__()
        self.slot = slot
        self.token_shift = TokenShift()

    def forward(self, x: Tensor, cache: StateCache | None) -> Tensor:
        """(B, T, C) -> (B, T, 2 C)."""
        before = None if cache is None else cache.state(self.slot)
        earlier, tail = self.token_shift(x, None if before is None else before.tail)
        if cache is not None:
            cache.store(self.slot, State(tail, None))
        return torch.cat((x, earlier), dim=-1)


class ChannelMixing(PlainFeedForward):
    """`gate * down(relu(up(x))^2)`, with inputs mixed from each token and the one before it."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__(hidden, intermediate, "relu2", bias=False)
        self.time_mix_key = nn.Parameter(torch.empty(hidden))
        self.time_mix_receptance = nn.Parameter(torch.empty(hidden))
        self.receptance = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens with those before them (B, T, 2 C) -> (B, T, C)."""
        return self.gate(x) * super().forward(x)

    def neurons(self, x: Tensor) -> Tensor:
        """The activation of each neuron; (B, T, 2 C) -> (B, T, I)."""
        return super().neurons(_mixed_pair(x, self.time_mix_key))

    def gate(self, x: Tensor) -> Tensor:
        """The factors on the channels of the output; (B, T, 2 C) -> (B, T, C)."""
        return torch.sigmoid(self.receptance(_mixed_pair(x, self.time_mix_receptance)))


def _mixed(x: Tensor, earlier: Tensor, share: Tensor) -> Tensor:
    """Each channel's `share` (C,) of the token (..., C), and the rest from the one before (..., C)."""
    return x * share + earlier * (1 - share)


def _mixed_pair(x: Tensor, share: Tensor) -> Tensor:
    """The same for tokens with those before them (..., 2 C)."""
    now, earlier = x.chunk(2, dim=-1)
    return _mixed(now, earlier, share)
