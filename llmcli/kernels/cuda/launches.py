"""Kernel launches that share buffers, for the parts of a model's layers.

Dimension letters: R rows of buffers: 1 for one token, or 16 for several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cuda.support import ACTIVATIONS
from llmcli.kernels.cuda.weights import DeviceMatrix, DeviceNorm, factor_of, matrix, norm
from llmcli.kernels.triton.linear import add_normed, feed_forward, linear
from llmcli.model import Transformer

TYPES: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
ROWS = 16
# Rows of a tile for several tokens: with more rows, activations are read less often.
_HEIGHTS = 64, 32
# Tensor cores multiply 16 columns at a time in each of four warps.
_LEAST_COLUMNS = 64


@dataclass(frozen=True)
class Launch:
    """A kernel with its grid, arguments and compile-time constants."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[object, ...]
    constants: Mapping[str, object]

    def __call__(self) -> None:
        """Launch the kernel; on a GPU this does not wait for its end."""
        self.kernel[self.grid](*self.arguments, **self.constants)


@dataclass(frozen=True)
class Tile:
    """The part of a matrix that a program reads at a time."""

    rows: int
    columns: int
    warps: int = 4

    @property
    def constants(self) -> Mapping[str, int]:
        """The tile's constants as a kernel's keyword arguments."""
        return {"rows": self.rows, "columns": self.columns, "num_warps": self.warps}


class Launches:
    """The launches for `tokens` new tokens, in order."""

    def __init__(self, model: Transformer, tokens: int, *, programs: int, pdl: bool) -> None:
        """A launch should have `programs` programs or more, to keep the device busy. With `pdl` (programmatic dependent
        launch) a kernel may start before the one before it has ended.
        """
        self.tokens, self.config, self.device = tokens, model.config, model.device
        self.rows = 1 if tokens == 1 else ROWS
        self.programs = programs
        self.formats: dict[str, None] = {}
        """The formats of the matrices, shown to users."""
        self.all: list[Launch] = []
        # Placeholder for optional arguments that a kernel does not use.
        self.none = torch.zeros(1, device=self.device)
        # Triton's interpreter multiplies bfloat16 as if it were integers.
        self.operand = tl.float32 if triton.knobs.runtime.interpret else TYPES[model.dtype]
        self._pdl: dict[str, Any] = {"pdl": True, "launch_pdl": True} if pdl else {"pdl": False}
        self._buffers: dict[tuple[str, int, int], Tensor] = {}

    def new(self, purpose: str, width: int, rows: int | None = None) -> Tensor:
        """A buffer (rows, width); layers share buffers of the same purpose."""
        key = purpose, rows or self.rows, width
        if key not in self._buffers:
            # Zeros, because rows without a token are computed too.
            self._buffers[key] = torch.zeros(key[1:], device=self.device)
        return self._buffers[key]

    def add(self, kernel: Any, grid: tuple[int, ...], *arguments: object, **constants: object) -> None:
        """Append a launch."""
        self.all.append(Launch(kernel, grid, arguments, {**constants, **self._pdl}))

    def normed_onto(
        self, residual: Tensor, output: nn.Module, name: str, compute: Callable[[Tensor, Tensor | None, float], None]
    ) -> Tensor:
        """Launch `residual + output(result)`, where `output` is a norm or factor; written to the buffer `name`.

        `compute(y, onto, factor)` must launch `y = onto + factor * result`.
        """
        size = self.config.hidden_size
        summed = self.new(name, size)
        factor = factor_of(output)
        if factor is not None or isinstance(output, nn.Identity):
            compute(summed, residual, 1.0 if factor is None else factor)
            return summed
        y = self.new("not normed", size)
        compute(y, None, 1.0)
        after = norm(output, size, self.device)
        self.add(
            add_normed, (self.tokens,), y, residual, after.weight, after.bias, summed, after.eps,
            size=size, norm=after.kind, block=triton.next_power_of_2(size),
        )  # fmt: skip
        return summed

    def neurons(self, network: Any, x: Tensor, before: DeviceNorm) -> Tensor:
        """Launch gate, up and activation of a feed-forward `network` with the input `before(x)`, `before` a norm.

        Raises:
            NoKernelError: the kernels do not support the format of its weights.
        """
        up = matrix(network.up_proj)
        gated = hasattr(network, "gate_proj")
        gate = matrix(network.gate_proj) if gated else up
        if not gate.same_format(up):
            raise NoKernelError("gate and up have different formats")
        y = self.new("fired", up.rows)
        tile = self.tile(up)
        self.note(up)
        self.add(
            feed_forward, (-(-up.rows // tile.rows),), x, gate.data, up.data, self.bias(gate), self.bias(up), up.rows,
            before.weight, before.bias, y, before.eps,
            size=up.columns, norm=before.kind, bits=up.bits, group=up.group, gated=gated, activation=self.activation,
            has_bias=up.bias is not None, tokens=self.rows, operand=self.operand, **tile.constants,
        )  # fmt: skip
        return y

    def linear(
        self, matrices: Sequence[DeviceMatrix], x: Tensor, y: Tensor, before: DeviceNorm | None = None, *,
        residual: Tensor | None = None, factor: float = 1.0, gate: Tensor | None = None, softcap: float | None = None,
    ) -> None:  # fmt: skip
        """Launch `y = residual + factor * norm(x) W^T` for up to three matrices W, one after another in `y` (R, rows).

        Matrices of the same format share one launch. With `gate` (R, 1) the products are multiplied by its sigmoid.
        """
        before = before or DeviceNorm(0, self.none, self.none, 0.0)
        if not all(one.same_format(matrices[0]) for one in matrices):
            first = 0
            for one in matrices:
                self.linear([one], x, y[:, first : first + one.rows], before)
                first += one.rows
            return
        for one in matrices:
            self.note(one)
        # With a float32 router in a model of a shorter type, activations stay in float32 too.
        exact = matrices[0].packing is None and matrices[0].data.dtype == torch.float32
        tile = self.tile(matrices[0], rows=sum(one.rows for one in matrices))
        all_three = [*matrices, *[matrices[0]] * (3 - len(matrices))]
        numbers = [one.rows for one in matrices] + [0] * (3 - len(matrices))
        self.add(
            linear, (sum(-(-one.rows // tile.rows) for one in matrices),), x, *(one.data for one in all_three),
            *(self.bias(one) for one in all_three), *numbers, before.weight, before.bias,
            self.none if residual is None else residual, self.none if gate is None else gate, y, y.stride(0),
            before.eps, factor, softcap or 0.0,
            size=matrices[0].columns, norm=before.kind, bits=matrices[0].bits, group=matrices[0].group,
            several=len(matrices) > 1,
            has_bias=matrices[0].bias is not None, has_residual=residual is not None, has_gate=gate is not None,
            capped=softcap is not None, tokens=self.rows, operand=tl.float32 if exact else self.operand,
            **tile.constants,
        )  # fmt: skip

    def tile(self, weights: DeviceMatrix, *, rows: int | None = None, tokens: int | None = None) -> Tile:
        """A tile small enough that every multiprocessor has several programs."""
        tokens = tokens or self.rows
        rows, width = rows or weights.rows, triton.next_power_of_2(weights.columns)
        if tokens > 1:
            return self._several_tile(weights.bits or 4, width, rows)
        if weights.bits:
            return self._packed_tile(weights.bits, width, rows)
        height = ROWS
        while height > 1 and rows // height < self.programs:
            height //= 2
        return Tile(height, max(16, min(width, 1024, 4096 // height)))

    def _packed_tile(self, bits: int, width: int, rows: int) -> Tile:
        """A tile with one word of a row for each thread, so that no activation is loaded twice."""
        blocks = -(-rows // ROWS)
        # With few programs per multiprocessor, each must load more at a time to keep the memory busy.
        warps = 8 if blocks < 2 * self.programs and width >= 8192 // bits else 4
        return Tile(ROWS, max(128, min(width, 1024 * warps // bits)), warps)

    def _several_tile(self, bits: int, width: int, rows: int) -> Tile:
        """A tile for several tokens, with the most rows that leave every multiprocessor a program or more."""
        height = next((height for height in _HEIGHTS if rows // height >= self.programs), ROWS)
        return Tile(height, max(_LEAST_COLUMNS, min(width, 32768 // bits // max(32, height))))

    def bias(self, weights: DeviceMatrix) -> Tensor:
        """The bias, or the placeholder for none."""
        return self.none if weights.bias is None else weights.bias

    def note(self, weights: DeviceMatrix) -> None:
        """Note the format of a matrix."""
        name = str(weights.packing or weights.data.dtype).removeprefix("torch.")
        self.formats[name] = None

    @property
    def activation(self) -> int:
        """The activation's number in the kernels."""
        return ACTIVATIONS.index(self.config.activation)
