"""Compressed blocks: the tokens of a block become one row, which later tokens attend to as to a key and value.

Formulas: transformers 5.24, models/deepseek_v4.

Dimension letters: B batch, T new tokens, S tokens, N new blocks, M all blocks, r tokens of a block, C hidden size,
Q size of the compressed query, D size of a row, W values of a token, I heads of the index, E size of a key of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmcli.model.attention.key_index import best_keys, head_weights
from llmcli.model.attention.rope import rotate_last
from llmcli.model.cache.kv_cache import LayerCache
from llmcli.model.config import KeyIndexConfig, ModelConfig
from llmcli.model.norm import make_norm
from llmcli.model.shared_row_config import BlocksConfig


@dataclass(frozen=True)
class BlockPositions:
    """The blocks of one kind of layer in a pass."""

    earlier: int
    """Blocks that were complete before the pass."""
    rotation: tuple[Tensor, Tensor]
    """Cosines and sines of the first position of each of the N blocks that the pass completes."""
    mask: Tensor
    """The complete blocks that each new token sees, (T, M)."""

    @property
    def new(self) -> int:
        """N."""
        return len(self.rotation[0])


def visible_blocks(blocks: BlocksConfig, start: int, new: int, device: torch.device) -> Tensor:
    """The complete blocks that each of the `new` tokens from position `start` on sees: (T, M).

    A token sees the blocks that end with it or before.
    """
    positions = torch.arange(start, start + new, device=device)
    numbers = torch.arange(blocks.complete(start + new), device=device)
    return numbers < ((positions + 1) // blocks.rate)[:, None]


class BlockCompressor(nn.Module):
    """Mixes the values of a block's tokens, weighted by a softmax of their gates for each dimension: `sum_j p_j v_j`.

    `p = softmax(gate_j + bias_j)` over the tokens j of the block, with a learned bias for each place in it. If blocks
    overlap, each token has two values and gates: the first is mixed into the next block's row, the second into its own.
    """

    def __init__(self, config: ModelConfig, blocks: BlocksConfig, size: int) -> None:
        """`size` is that of a row."""
        super().__init__()
        self.blocks, self.size = blocks, size
        width = blocks.sets * size
        self.kv_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.position_bias = nn.Parameter(torch.empty(blocks.rate, width))
        self.kv_norm = make_norm(size, config.norm_eps, config.norm)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gates of the tokens `x` (B, T, C), each (B, T, W)."""
        return self.kv_proj(x), self.gate_proj(x)

    def compress(self, values: Tensor, gates: Tensor, place: BlockPositions) -> Tensor:
        """The rows (B, 1, N, D) of the new blocks, from the `values` and `gates` (B, S, W) of their tokens.

        With overlapping blocks these begin with the block before, if there is one.
        """
        rate, size = self.blocks.rate, self.size
        before = min(place.earlier, self.blocks.sets - 1)
        used, shape = (before + place.new) * rate, (len(values), -1, rate, self.blocks.sets * size)
        values = values[:, :used].reshape(shape)  # (B, before + N, r, W)
        gates = gates[:, :used].reshape(shape).float() + self.position_bias.float()
        if self.blocks.overlapping:
            values, gates = self._overlapped(values, 0.0, before), self._overlapped(gates, -torch.inf, before)
        weights = gates.softmax(2).to(values.dtype)
        rows: Tensor = self.kv_norm((values * weights).sum(2)).unsqueeze(1)  # (B, 1, N, D)
        return rotate_last(rows, *place.rotation)

    def _overlapped(self, x: Tensor, absent: float, before: int) -> Tensor:
        """Both sets of each block's row, (B, N, 2r, D): the first of the block before, the second of the block itself.

        `absent` stands for the tokens before the text; `before` is 1 if `x` (B, before + N, r, 2D) begins with the
        block before the first one.
        """
        first, second = x[..., : self.size], x[:, before:, :, self.size :]
        if not before:
            first = nn.functional.pad(first, (0, 0, 0, 0, 1, 0), value=absent)
        return torch.cat((first[:, :-1], second), dim=2)


class CompressedIndex(nn.Module):
    """Chooses the blocks that each token sees, by keys that are compressed as rows are (the lightning indexer)."""

    def __init__(self, config: ModelConfig, blocks: BlocksConfig, index: KeyIndexConfig, query_rank: int) -> None:
        super().__init__()
        self.config = index
        self.compressor = BlockCompressor(config, blocks, index.size)
        self.q_proj = nn.Linear(query_rank, index.heads * index.size, bias=False)
        self.weight_proj = nn.Linear(config.hidden_size, index.heads, bias=False)

    def choose(
        self, x: Tensor, query: Tensor, keys: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """The blocks with `keys` (B, 1, M, E) that each of the tokens `x` (B, T, C) attends to: a mask (B, T, M).

        `query` (B, T, Q) is their compressed query, `mask` (T, M) the blocks that they may see. None: all of these,
        because there are no more than the index chooses.
        """
        if keys.shape[2] <= self.config.chosen:
            return None
        q = self.q_proj(query).view(*x.shape[:2], self.config.heads, -1).transpose(1, 2)
        q = rotate_last(q, *rotation).transpose(1, 2)  # (B, T, I, E)
        return best_keys(self.config, q, keys, head_weights(self.config, x, self.weight_proj), mask)


class CompressedBlocks(nn.Module):
    """The rows of all complete blocks of a text, and which of them each token sees."""

    def __init__(
        self, config: ModelConfig, blocks: BlocksConfig, index: KeyIndexConfig | None, query_rank: int, layer: int
    ) -> None:
        super().__init__()
        self.layer = layer
        self.compressor = BlockCompressor(config, blocks, config.head_dim)
        self.indexer = None if index is None else CompressedIndex(config, blocks, index, query_rank)

    def forward(
        self,
        x: Tensor,
        query: Tensor,
        place: BlockPositions,
        rotation: tuple[Tensor, Tensor],
        cache: LayerCache | None,
    ) -> tuple[Tensor, Tensor]:
        """The rows (B, 1, M, D) after the new tokens `x` (B, T, C), and a mask of those that each token sees.

        The mask is (T, M), or (B, T, M) where an index has chosen. `query` (B, T, Q) is the tokens' compressed query,
        `rotation` that of their positions.
        """
        compressors = [self.compressor] if self.indexer is None else [self.compressor, self.indexer.compressor]
        parts = [each.project(x) for each in compressors]
        values, gates = torch.cat([one for one, _ in parts], dim=-1), torch.cat([one for _, one in parts], dim=-1)
        if cache is not None:
            values, gates = cache.append_inputs(self.layer, values, gates)
        first, made = 0, []
        for each, (own, _) in zip(compressors, parts, strict=True):
            columns = slice(first, first + own.shape[-1])
            made.append(each.compress(values[..., columns], gates[..., columns], place))
            first = columns.stop
        rows = made[0]
        keys = rows[..., :0] if self.indexer is None else made[1]
        if cache is not None:
            rows, keys = cache.append_entries(self.layer, rows, keys)
        chosen = None if self.indexer is None else self.indexer.choose(x, query, keys, place.mask, rotation)
        return rows, place.mask if chosen is None else chosen
