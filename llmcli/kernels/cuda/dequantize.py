"""Packed matrices made dense by a Triton kernel, wherever the readable model computes with them on a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llmcli.kernels.cuda.support import why_not_here
from llmcli.model.quantized.layout import PackedFormat
from llmcli.model.quantized.matrix import PackedMatrix

# Of a program's tile, and words of a row in it: 4 warps read 16 bytes a thread, twice.
_ROWS, _WORDS = 16, 64

# What a kernel is compiled for.
_Kind: TypeAlias = tuple[torch.device, PackedFormat, int, torch.dtype]

# Of all models of a process: the kernel, as soon as it is compiled, or None where it cannot be.
_kernels: dict[_Kind, Future[Any]] = {}


class CudaUnpacker:
    """Gives rows as soon as its kernels are compiled; that goes on beside the reading of weights.

    Until then, and where it fails, torch unpacks: no first token waits for a compiler, and the same is computed.
    """

    def take_on(self, matrices: Iterable[PackedMatrix]) -> None:
        """Be the one who unpacks those of these that lie as a GPU reads them, into the type they are handed out in.

        Blocks need not be filled yet.
        """
        # No thread is left when all is compiled.
        pool = ThreadPoolExecutor(max_workers=1)
        for matrix in (matrix for matrix in matrices if matrix.format.wide):
            if (kind := _kind(matrix, matrix.dtype)) not in _kernels:
                _kernels[kind] = pool.submit(_compiled, matrix)
            matrix.unpacker = self
        pool.shutdown(wait=False)

    def ready(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether the kernel for this matrix is compiled, and could be."""
        kernel = _kernels.get(_kind(matrix, dtype))
        return kernel is not None and kernel.done() and kernel.result() is not None

    def awaited(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether the kernel for this matrix is still to be compiled."""
        kernel = _kernels.get(_kind(matrix, dtype))
        return kernel is not None and not kernel.done()

    def unpack(self, matrix: PackedMatrix, index: int, first: int, into: Tensor) -> None:
        """Fill `into` (n, columns) with rows of matrix `index` from `first` on, a multiple of 16; it must be ready."""
        kernel = _kernels[_kind(matrix, into.dtype)].result()
        start = index * matrix.row_blocks + first // matrix.format.rows
        _launch(kernel, matrix, start, len(into), into)


def unpacker_for(device: torch.device) -> CudaUnpacker | None:
    """What unpacks matrices on that device faster than torch; None: nothing does, or it cannot run here."""
    return CudaUnpacker() if device.type == "cuda" and why_not_here(device) is None else None


def _kind(matrix: PackedMatrix, dtype: torch.dtype) -> _Kind:
    return matrix.blocks.device, matrix.format, matrix.columns, dtype


def _compiled(matrix: PackedMatrix) -> Any:
    """The kernel, compiled for such a matrix and launched once, so that a later launch can be recorded; None: it fails.

    Whatever a compiler, its linker or a driver may raise is not kept: an error knows the matrix, and would keep that.
    """
    try:
        from llmcli.kernels.triton.dequantize import unpack

        with torch.inference_mode():
            _launch(unpack, matrix, 0, 0, torch.empty(_ROWS, dtype=matrix.dtype, device=matrix.blocks.device))
    except Exception:
        return None
    return unpack


def _launch(kernel: Any, matrix: PackedMatrix, start: int, rows: int, into: Tensor) -> None:
    """Make so many rows, which may be none, of the blocks from `start` on."""
    kept, columns = matrix.format, matrix.columns
    blocks = matrix.blocks[start:]
    across = _WORDS * 32 // kept.bits
    while across >= 2 * kept.padded(columns):
        across //= 2
    grid = max(1, -(-rows // _ROWS)), -(-columns // across)
    # Triton launches on the current device, whatever its arguments are on.
    with torch.cuda.device(blocks.device) if blocks.is_cuda else nullcontext():
        kernel[grid](
            blocks.view(torch.int32), rows, into,
            size=columns, bits=kept.bits, group=kept.group or 0, rows=_ROWS, columns=across, num_warps=4,
        )  # fmt: skip
