"""The modules that connect the parts of a split model: sums over ranks, and logits put together.

Dimension letters: B batch, T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from llmcli.model.attention.attention import Attention
from llmcli.model.attention.scaled_dot_product import alibi_slopes
from llmcli.model.config import ModelConfig
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.parallel.split import Part, Rank, even_range, query_heads
from llmcli.model.quantized.matrix import QuantizedLinear
from llmcli.model.transformer import Transformer


class Collectives(Protocol):
    """What ranks compute together. All of them must call the same methods in the same order."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the `x` of all ranks, which have one shape."""

    def concatenate(self, x: Tensor, sizes: list[int]) -> Tensor:
        """The `x` of all ranks along the last dimension, of which rank r has `sizes[r]`."""


class SumOverRanks(nn.Module):
    """Adds what the ranks computed, each from its own experts."""

    def __init__(self, ranks: Collectives) -> None:
        super().__init__()
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self._ranks.sum(x)


class RowParallelLinear(nn.Module):
    """A linear layer whose input features are split over ranks; each has some columns of the matrix.

    Ranks compute products of their columns, which are added. The bias is added once, behind the sum.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear | QuantizedLinear, ranks: Collectives) -> None:
        super().__init__()
        bias = linear.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias)
        linear.register_parameter("bias", None)
        self.linear = linear
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """(..., features of this rank) -> (..., all outputs)."""
        y = self._ranks.sum(self.linear(x))
        return y if self.bias is None else y + self.bias


class ParallelEmbedding(nn.Module):
    """An embedding whose rows are split over ranks: the rank that has a token's row adds it to zeros."""

    def __init__(self, embedding: nn.Module, first: int, count: int, ranks: Collectives) -> None:
        """`embedding` has the rows `first` to `first + count` of the whole."""
        super().__init__()
        self.embedding, self.first, self.count = embedding, first, count
        self._ranks = ranks

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C)."""
        here = (ids >= self.first) & (ids < self.first + self.count)
        rows: Tensor = self.embedding((ids - self.first).clamp(0, self.count - 1))
        return self._ranks.sum(rows * here[..., None])


class ParallelHead(nn.Module):
    """An output head whose rows, one for each token of the vocabulary, are split over ranks."""

    def __init__(self, head: nn.Module, sizes: list[int], ranks: Collectives) -> None:
        super().__init__()
        self.head, self.sizes = head, sizes
        self._ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V)."""
        return self._ranks.concatenate(self.head(x), self.sizes)


def connect(model: Transformer, whole: ModelConfig, parts: dict[str, Part], rank: Rank, ranks: Collectives) -> None:
    """Put the collectives of `ranks` into a loaded `model`, which has the `parts` of `whole` that `rank` has."""
    for path, module in list(model.named_modules()):
        part = parts.get(f"{path}.weight")
        if isinstance(module, Attention) and whole.alibi is not None:
            heads = whole.heads_of(whole.layers[module.index])
            first, stop = query_heads(heads, rank) if module.heads.count < heads.count else (0, heads.count)
            module.attend.slopes = torch.tensor(alibi_slopes(heads.count)[first:stop]).to(model.device)
        elif isinstance(module, MixtureOfExperts) and module.config.held is not None:
            module.sum_over_ranks = SumOverRanks(ranks)
        elif part is not None and part.dimension == 1:
            assert isinstance(module, nn.Linear | QuantizedLinear)
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, RowParallelLinear(module, ranks))
    part = parts["embed_tokens.weight"]
    sizes = [even_range(whole.vocab_size, Rank(index, rank.count)) for index in range(rank.count)]
    embedding = ParallelEmbedding(model.embed_tokens, part.start, part.stop - part.start, ranks)
    head = ParallelHead(model.lm_head, [stop - first for first, stop in sizes], ranks)
    model.add_module("embed_tokens", embedding)
    model.add_module("lm_head", head)
