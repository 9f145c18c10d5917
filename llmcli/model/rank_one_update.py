"""Rank-one updates added to the output of an unchanged matrix: `y = W x + sum_i write_i (read_i . x)`.

An update works over weights of any format, takes the memory of two vectors, and can be removed without a trace.

Dimension letters: E updates, I columns, C rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.quantized.matrix import QuantizedLinear


class EditedLinear(nn.Module):
    """A linear layer with rank-one updates added to its output."""

    reads: Tensor
    """(E, I), float32."""
    writes: Tensor
    """(E, C), float32."""

    def __init__(self, base: nn.Linear | QuantizedLinear, reads: Tensor, writes: Tensor) -> None:
        """Copy `reads` (E, I) and `writes` (E, C) to the layer's device, as contiguous float32."""
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        device = base.matrix.blocks.device if isinstance(base, QuantizedLinear) else base.weight.device
        self.register_buffer("reads", reads.detach().to(device).float().contiguous())
        self.register_buffer("writes", writes.detach().to(device).float().contiguous())

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in) with the updates added, computed at each access."""
        weight = self.base.weight
        return (weight.float() + self.writes.float().T @ self.reads.float()).to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer, which updates do not change."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., C)."""
        # In float32 for every type of layer: an update adds a large value along a single direction.
        added = (x.float() @ self.reads.float().T) @ self.writes.float()  # (..., C)
        out: Tensor = self.base(x)
        return out + added.to(out.dtype)


def attach_edit(mlp: nn.Module, read: Tensor, write: Tensor) -> nn.Module:
    """Add the update `write read^T` to the output projection of a dense feed-forward network.

    `read` (I,) and `write` (C,). Returns the module that was the output projection before, for `detach_edit`.

    Raises:
        ValueError: the sizes are not the network's, or it is a mixture of experts.
    """
    if isinstance(mlp, MixtureOfExperts):
        raise ValueError("a mixture of experts has no single output projection")
    down: nn.Linear | QuantizedLinear | EditedLinear = mlp.down_proj  # type: ignore[assignment]
    if read.shape != (down.in_features,) or write.shape != (down.out_features,):
        raise ValueError(
            f"an update of {tuple(write.shape)} x {tuple(read.shape)} does not fit a projection of "
            f"{down.out_features} x {down.in_features}"
        )
    base, reads, writes = down, read[None], write[None]
    if isinstance(down, EditedLinear):
        base = down.base
        reads = torch.cat((down.reads.float(), read[None].to(down.reads.device).float()))
        writes = torch.cat((down.writes.float(), write[None].to(down.writes.device).float()))
    assert not isinstance(base, EditedLinear)
    mlp.down_proj = EditedLinear(base, reads, writes)
    return down


def detach_edit(mlp: nn.Module, down: nn.Module) -> None:
    """Restore the output projection that `attach_edit` returned."""
    mlp.down_proj = down
