"""Dequantize packed matrices with a Triton kernel, for the readable model on a GPU."""

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

# Rows of a program's tile, and words of a row in it: each thread of 4 warps reads 16 bytes twice.
_ROWS, _WORDS = 16, 64

# The device, format, columns and type that a kernel is compiled for.
_Kind: TypeAlias = tuple[torch.device, PackedFormat, int, torch.dtype]

# For all models of the process: the kernel once it is compiled, or None if compiling failed.
_kernels: dict[_Kind, Future[Any]] = {}


class CudaUnpacker:
    """An `Unpacker` with Triton kernels, which are compiled in a thread while weights are read from disk.

    Until then, and where compiling fails, torch dequantizes with the same result: no first token waits for a compiler.
    """

    def register(self, matrices: Iterable[PackedMatrix]) -> None:
        """Register as the unpacker of every matrix in GPU layout, and start compiling the kernels for their types.

        The matrices' blocks need not be filled yet.
        """
        # The thread ends when all kernels are compiled.
        pool = ThreadPoolExecutor(max_workers=1)
        for matrix in (matrix for matrix in matrices if matrix.format.wide):
            if (kind := _kind(matrix, matrix.dtype)) not in _kernels:
                _kernels[kind] = pool.submit(_compiled, matrix)
            matrix.unpacker = self
        pool.shutdown(wait=False)

    def ready(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether the kernel for this matrix is compiled."""
        kernel = _kernels.get(_kind(matrix, dtype))
        return kernel is not None and kernel.done() and kernel.result() is not None

    def pending(self, matrix: PackedMatrix, dtype: torch.dtype) -> bool:
        """Whether the kernel for this matrix is still being compiled."""
        kernel = _kernels.get(_kind(matrix, dtype))
        return kernel is not None and not kernel.done()

    def unpack(self, matrix: PackedMatrix, index: int, first: int, into: Tensor) -> None:
        """Dequantize rows of matrix `index` into `into` (n, columns), from row `first`, a multiple of 16, on."""
        kernel = _kernels[_kind(matrix, into.dtype)].result()
        start = index * matrix.row_blocks + first // matrix.format.rows
        _launch(kernel, matrix, start, len(into), into)


def unpacker_for(device: torch.device) -> CudaUnpacker | None:
    """The unpacker for a device that is faster than torch; None if there is none that can run here."""
    return CudaUnpacker() if device.type == "cuda" and why_not_here(device) is None else None


def _kind(matrix: PackedMatrix, dtype: torch.dtype) -> _Kind:
    return matrix.blocks.device, matrix.format, matrix.columns, dtype


def _compiled(matrix: PackedMatrix) -> Any:
    """Compile the kernel for such a matrix and launch it once, so that CUDA graphs can record it; None if that fails.

    The error itself is not kept: its traceback refers to the matrix, whose memory could then not be freed.
    """
    try:
        from llmcli.kernels.triton.dequantize import unpack

        with torch.inference_mode():
            _launch(unpack, matrix, 0, 0, torch.empty(_ROWS, dtype=matrix.dtype, device=matrix.blocks.device))
    except Exception:
        return None
    return unpack


def _launch(kernel: Any, matrix: PackedMatrix, start: int, rows: int, into: Tensor) -> None:
    """Dequantize `rows` rows, which may be 0, of the blocks from `start` on."""
    packed_format, columns = matrix.format, matrix.columns
    blocks = matrix.blocks[start:]
    across = _WORDS * 32 // packed_format.bits
    while across >= 2 * packed_format.padded(columns):
        across //= 2
    grid = max(1, -(-rows // _ROWS)), -(-columns // across)
    # Triton launches on the current device, even if the arguments are on another.
    with torch.cuda.device(blocks.device) if blocks.is_cuda else nullcontext():
        kernel[grid](
            blocks.view(torch.int32), rows, into,
            size=columns, bits=packed_format.bits, group=packed_format.group or 0, rows=_ROWS, columns=across,
            num_warps=4,
        )  # fmt: skip
