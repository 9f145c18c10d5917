"""The mLSTM: a layer with a memory of keys and values, and exponential gates (xLSTM, arXiv:2405.04517, section 2.3).

Of each head the memory C (K, V) is a linear map from keys to values, and n (K) is the sum of the keys in it. A token
lets both fade, adds its key and value, and reads them:

    C <- f C + i k v^T;  n <- f n + i k;  h = C^T q / max(|n . q|, 1)

with f = sigmoid(forget gate) and i = exp(input gate). Numbers may become very large that way, so C and n are kept
divided by exp(m), where m <- max(log f + m, log i). The memory here is one matrix (K, V + 2): C, n, and a column of m.
`by_token` computes exactly this. `by_chunk` gives the same, up to rounding, with matrix products over chunks of tokens
(arXiv:2503.14376).

Dimension letters: B batch, T new tokens, C hidden size, H heads, K size of a key, V size of a value, n tokens of a
chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.model.attention.attention import Positions
from llmcli.model.cache.state import State, StateCache
from llmcli.model.config import ModelConfig, NormStyle
from llmcli.model.mixer_config import MlstmConfig
from llmcli.model.norm import make_norm
from llmcli.model.recurrent.chunks import CHUNK, SHORT, log_decay_between, split_into_chunks, sums_after
from llmcli.model.recurrent.recurrence import Recurrence

# The least maximum of a chunk's logarithms: it is finite even if no token of the chunk is written.
_LEAST = -1e30


def mlstm(
    q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, log_input: Tensor, memory: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V + 1) of all tokens, and the memory (B, H, K, V + 2) after the last.

    An output is `C^T q`, and behind it `max(|n . q|, 1)`, both divided by exp(m). Queries and keys (B, T, H, K), values
    (B, T, H, V), and logarithms of f and i (B, T, H) are of one type, in which all is computed; so is the `memory`
    before; None: it is empty.
    """
    # The key itself is what n sums, so a value of 1 makes it a column of C.
    v = torch.cat((v, torch.ones_like(v[..., :1]), torch.zeros_like(v[..., :1])), dim=-1)
    if memory is None:
        memory = q.new_zeros(q.shape[0], *q.shape[2:], v.shape[-1])
    rule = by_token if q.shape[1] <= SHORT else by_chunk
    read, scale, memory = rule(q, k, v, log_forget, log_input, memory)
    normalizer = torch.maximum(read[..., -2].abs(), torch.exp(-scale))
    return torch.cat((read[..., :-2], normalizer[..., None]), dim=-1), memory


def by_token(
    q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, log_input: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What queries read (B, T, H, V + 2), m (B, T, H) and the memory, one token after the other.

    Values `v` (B, T, H, V + 2) have a one and a zero behind them; the last column of what is read has no meaning.
    """
    read, scales = [], []
    for t in range(q.shape[1]):
        kept, written = log_forget[:, t] + memory[..., 0, -1], log_input[:, t]  # (B, H)
        scale = torch.maximum(kept, written)
        added = ((written - scale).exp()[..., None] * k[:, t])[..., None] * v[:, t, :, None]
        memory = (kept - scale).exp()[..., None, None] * memory + added
        memory[..., -1] = scale[..., None]
        read.append((q[:, t, :, None] @ memory).squeeze(2))
        scales.append(scale)
    return torch.stack(read, dim=1), torch.stack(scales, dim=1), memory


def by_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, log_input: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by chunks: tokens that fill up the last one let nothing fade and write nothing; shapes as above."""
    tokens = q.shape[1]
    log_input = F.pad(log_input, (0, 0, 0, -tokens % CHUNK), value=-torch.inf)
    q, k, v, forget, log_input = (
        split_into_chunks(x) for x in (q, k, v, log_forget[..., None], log_input[..., None])
    )  # (B, H, chunks, n, K, V + 2 or 1)
    weights = log_decay_between(forget) + log_input.mT  # (B, H, chunks, n, n)
    most = weights.amax(-1, keepdim=True).clamp_min(_LEAST)
    within = ((q @ k.mT) * (weights - most).exp()) @ v
    since_start, to_end = forget.cumsum(-2), sums_after(forget) + log_input
    read, scales = [], []
    for i in range(q.shape[2]):
        kept = since_start[:, :, i] + memory[..., :1, -1:]  # (B, H, n, 1)
        scale = torch.maximum(kept, most[:, :, i])
        found = (kept - scale).exp() * (q[:, :, i] @ memory)
        read.append(found + (most[:, :, i] - scale).exp() * within[:, :, i])
        scales.append(scale)
        kept, written = kept[..., -1:, :], to_end[:, :, i]
        last = torch.maximum(kept, written.amax(-2, keepdim=True))  # (B, H, 1, 1)
        memory = (kept - last).exp() * memory + (k[:, :, i] * (written - last).exp()).mT @ v[:, :, i]
        memory[..., -1] = last[..., 0]
    joined, all_scales = (torch.cat(parts, dim=2)[:, :, :tokens].transpose(1, 2) for parts in (read, scales))
    return joined, all_scales[..., 0], memory


class Mlstm(nn.Module):
    """Queries, keys and values go through the recurrence; its normalized output is multiplied by a gate."""

    def __init__(self, config: ModelConfig, cell: MlstmConfig, index: int) -> None:
        super().__init__()
        self.cell, self.index = cell, index
        hidden, keys, values = config.hidden_size, cell.heads * cell.key_dim, cell.heads * cell.value_dim
        self.q = nn.Linear(hidden, keys, bias=False)
        self.k = nn.Linear(hidden, keys, bias=False)
        self.v = nn.Linear(hidden, values, bias=False)
        self.ogate_preact = nn.Linear(hidden, values, bias=False)
        self.igate_preact = nn.Linear(hidden, cell.heads)
        self.fgate_preact = nn.Linear(hidden, cell.heads)
        self.recurrence = Recurrence(mlstm)
        self.multihead_norm = make_norm((cell.heads, cell.value_dim), config.norm_eps, NormStyle("layer"))
        self.out_proj = nn.Linear(values, hidden, bias=False)

    def forward(self, x: Tensor, _place: Positions, cache: StateCache | None) -> Tensor:
        """Read the new tokens `x` (B, T, C) after those that the cached state comes from; returns (B, T, C)."""
        before = None if cache is None else cache.state(self.index)
        heads = self.cell.heads, -1
        q, k, v = (project(x).float().unflatten(-1, heads) for project in (self.q, self.k, self.v))
        output, memory = self.recurrence(
            q * self.cell.key_dim**-0.5,
            k,
            v,
            F.logsigmoid(self._capped(self.fgate_preact(x))),
            self._capped(self.igate_preact(x)),
            None if before is None else before.sum,
        )
        if cache is not None:
            # There is no convolution, so no tail.
            cache.store(self.index, State(x.new_empty(x.shape[0], 0, 0), memory))
        mixed = output[..., :-1] / (output[..., -1:] + self.cell.eps)  # (B, T, H, V)
        gated = torch.sigmoid(self.ogate_preact(x)) * self.multihead_norm(mixed.to(x.dtype)).flatten(2)
        projected: Tensor = self.out_proj(gated)
        return projected

    def _capped(self, gate: Tensor) -> Tensor:
        """Gates (B, T, H) within plus and minus the cap, in float32."""
        return self.cell.gate_cap * torch.tanh(gate.float() / self.cell.gate_cap)
