"""The gated delta rule: a memory of keys and values that forgets, corrects itself and is read by queries.

Of each head the memory S (K, V) is a linear map from keys to values. A token first lets it decay, then replaces what
it holds for the token's key, and reads it:

    S <- exp(g) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q

(Yang et al. 2024, arXiv:2412.06464, eq. 10). The decay is one number for each head, or one for each channel of its
keys (Kimi Linear, arXiv:2510.26692, eq. 1). `by_token` computes exactly this. `by_chunk` gives the same, up to
rounding, with matrix products over chunks of tokens.

Dimension letters: B batch, T new tokens, H heads, K size of a key, V size of a value, D 1 or K, n tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.model.recurrent.chunks import CHUNK, SHORT, decay_between, split_into_chunks, sums_after


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) of all tokens, and the memory (B, H, K, V) after the last.

    Queries and keys (B, T, H, K), values (B, T, H, V), logarithms of the decay (B, T, H, D), none above zero, and
    `beta` (B, T, H) are of one type, in which all is computed; so is `state`, the memory before; None: it is empty.
    """
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    rule = by_token if q.shape[1] <= SHORT else by_chunk
    return rule(q, k, v, log_decay, beta, state)


def by_token(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The rule for one token after the other; shapes as in `delta_rule`."""
    decay = log_decay.exp()
    outputs = []
    for t in range(q.shape[1]):
        state = decay[:, t, :, :, None] * state  # (B, H, K, V)
        error = v[:, t] - _read(state, k[:, t])  # (B, H, V)
        state = state + k[:, t, :, :, None] * (beta[:, t, :, None] * error)[:, :, None]
        outputs.append(_read(state, q[:, t]))
    return torch.stack(outputs, dim=1), state


def _read(state: Tensor, keys: Tensor) -> Tensor:
    """What memories (B, H, K, V) hold for keys (B, H, K): (B, H, V)."""
    return (keys[:, :, None] @ state).squeeze(2)


def by_chunk(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The rule for chunks of tokens (arXiv:2412.06464, section 3.3); shapes as in `delta_rule`.

    Within a chunk each u depends on the earlier ones, which is a triangular system of equations. Its solution is linear
    in the memory S at the start of the chunk, U - W S, so the systems of all chunks are solved at once; then one chunk
    after the other reads and changes the memory. Tokens that fill up the last chunk have no decay and write nothing.
    """
    tokens = q.shape[1]
    q, k, v, log_decay, beta = (split_into_chunks(x) for x in (q, k, v, log_decay, beta[..., None]))
    from_keys, from_queries = _pairs(k, q, log_decay)
    since_start = log_decay.cumsum(-2).exp()  # (B, H, N, n, D): decay from the start of the chunk to each token
    right = torch.cat((beta * v, beta * since_start * k), dim=-1)
    solved = torch.linalg.solve_triangular((beta * from_keys).tril(-1), right, upper=False, unitriangular=True)
    new, old = solved.split((v.shape[-1], k.shape[-1]), dim=-1)  # U (..., n, V) and W (..., n, K)
    q = since_start * q
    k = sums_after(log_decay).exp() * k
    outputs = []
    for i in range(q.shape[2]):
        written = new[:, :, i] - old[:, :, i] @ state
        outputs.append(q[:, :, i] @ state + from_queries[:, :, i] @ written)
        state = since_start[:, :, i, -1, :, None] * state + k[:, :, i].mT @ written
    return torch.cat(outputs, dim=2)[:, :, :tokens].transpose(1, 2), state


def _pairs(k: Tensor, q: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """For tokens i >= j of a chunk, `k_i . k_j` and `q_i . k_j` with the decay between them; both (..., n, n).

    Above the diagonal, products are zero.
    """
    rows = torch.stack((k, q))  # (2, ..., n, K)
    if log_decay.shape[-1] == 1:
        products = (rows @ k.mT) * decay_between(log_decay)
        return products[0], products[1]
    products = rows.new_zeros(*rows.shape[:-1], CHUNK)  # (2, ..., n, n)
    products.diagonal(dim1=-2, dim2=-1).copy_((rows * k).sum(-1))
    # Each pair is once in different halves: of the chunk, of one of its halves, of one of their halves, and so on. The
    # decay between the two is that from j to the middle times that from the middle to i; neither factor can overflow,
    # as the inverse of a decay could.
    size = CHUNK // 2
    while size:
        halves = log_decay.reshape(*log_decay.shape[:-2], -1, 2, size, log_decay.shape[-1])
        later = rows.reshape(2, *halves.shape)[..., 1, :, :] * halves[..., 1, :, :].cumsum(-2).exp()
        earlier = k.reshape(halves.shape)[..., 0, :, :] * sums_after(halves[..., 0, :, :]).exp()
        count = CHUNK // (2 * size)
        blocks = products.view(*products.shape[:-2], count, 2, size, count, 2, size)[..., 1, :, :, 0, :]
        blocks.diagonal(dim1=-4, dim2=-2).copy_((later @ earlier.mT).movedim(-3, -1))
        size //= 2
    return products[0], products[1]
