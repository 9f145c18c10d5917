"""The state-space dual of Mamba-2: a memory that fades alike in all its values (Dao & Gu 2024, arXiv:2405.21060).

The memory S (P, N) of a head fades by a factor that depends on the token's step size, and adds the token's values x
in the direction B; C reads it:

    S <- exp(step A) S + step x B^T;  y = S C

`by_token` computes exactly this. `by_chunk` gives the same, up to rounding, with matrix products over chunks of
tokens (section 6 of the paper). The heads of a group share B and C.

Dimension letters: B batch, T new tokens, G groups, R heads of a group, P values of a head, N size of a state,
n tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model.recurrent.chunks import SHORT, decay_between, split_into_chunks, sums_after


def ssd(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, G * R, P) of all tokens, and the memory (B, G * R, P, N) after the last.

    Values `x` (B, T, G * R, P) and step sizes (B, T, G * R), negative `rate` A (G * R,), and B and C as `write` and
    `read` (B, T, G, N) are of one type, in which all is computed; so is `state`, the memory before; None: it is empty.
    """
    if state is None:
        state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], write.shape[3])
    scan = by_token if x.shape[1] <= SHORT else by_chunk
    return scan(x * step[..., None], step * rate, write, read, state)


def by_token(x: Tensor, log_decay: Tensor, write: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token after the other, of `x` (B, T, G * R, P) times the step size; `log_decay` is (B, T, G * R)."""
    shared = x.shape[2] // write.shape[2]
    decay = log_decay.exp()
    write, read = (part.repeat_interleave(shared, dim=2) for part in (write, read))
    outputs = []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None, None] * state + x[:, t, :, :, None] * write[:, t, :, None]
        outputs.append((state @ read[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1), state


def by_chunk(x: Tensor, log_decay: Tensor, write: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same by chunks: tokens that fill up the last one have no decay and write nothing; shapes as in `by_token`."""
    batch, tokens, heads, size = x.shape
    groups, width = write.shape[2:]
    grouped = batch, groups, heads // groups
    x, log_decay, write, read = (split_into_chunks(part) for part in (x, log_decay[..., None], write, read))
    x, log_decay = (part.view(*grouped, *part.shape[2:]) for part in (x, log_decay))  # (B, G, R, chunks, n, P or 1)
    within = ((read @ write.mT)[:, :, None] * decay_between(log_decay)) @ x
    since_start = log_decay.cumsum(-2).exp()
    written = sums_after(log_decay).exp() * x
    state = state.view(*grouped, size, width)
    outputs = []
    for i in range(x.shape[3]):
        # The memory as it is read and written by a group: (B, G, R * P, N).
        found = read[:, :, i] @ state.flatten(2, 3).mT  # (B, G, n, R * P)
        found = found.view(*found.shape[:3], -1, size).transpose(2, 3)  # (B, G, R, n, P)
        outputs.append(within[:, :, :, i] + since_start[:, :, :, i] * found)
        added = written[:, :, :, i].mT.flatten(2, 3) @ write[:, :, i]
        state = since_start[:, :, :, i, -1:] * state + added.view(state.shape)
    joined = torch.cat(outputs, dim=3).flatten(1, 2)[:, :, :tokens]
    return joined.transpose(1, 2), state.flatten(1, 2)
