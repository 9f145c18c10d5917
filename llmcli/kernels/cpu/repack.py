"""Repack weights from the blocks of GGUF files into packed blocks, in C, at the speed of memory."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int32

from torch import Tensor

from llmcli.kernels.cpu.build import Library, load_library
from llmcli.model.quantized.layout import COLUMNS, ROWS, Bits, PackedFormat, narrow
from llmcli.model.quantized.matrix import PackedMatrix

# In the order of `csrc/gguf_repack.h`: bits of a packed code, and bytes of 32 columns in the file.
_FORMATS: dict[str, tuple[Bits, int]] = {
    "Q4_0": (4, 18), "Q4_1": (4, 20), "Q4_K": (4, 18), "Q5_0": (8, 22), "Q8_0": (8, 34), "IQ4_NL": (8, 18),
}  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(_FORMATS)}


class BlockPacker:
    """Repacks rows of the supported block formats; the result equals torch's, bit for bit."""

    def __init__(self, library: Library | None = None) -> None:
        """Load the C kernel, or compile it.

        Raises:
            NoKernelError: it cannot run on this machine.
        """
        self._handle = (library or load_library()).handle

    @staticmethod
    def knows(encoding: str, kept: PackedFormat) -> bool:
        """Whether blocks of the file format `encoding` can be repacked to the format `kept`."""
        return encoding in _FORMATS and narrow(_FORMATS[encoding][0]) == kept

    def pack(
        self,
        encoding: str,
        stored: Tensor,
        to: PackedMatrix,
        index: int,
        first: int,
        order: Sequence[int] | None = None,
    ) -> None:
        """Repack `stored`, uint8 (N, blocks of a row, block bytes), into rows `first` to `first + N` of matrix `index`.

        With `order`, row i comes from row `order[i]` of `stored`. The rows that start at 0 must come first: the padding
        of the last block is set to zero with them.

        Raises:
            ValueError: the bytes do not fit the matrix, or `order` is not a permutation.
        """
        bits, size = _FORMATS[encoding]
        rows, groups = len(stored), to.columns // COLUMNS
        fits = (
            to.format == narrow(bits)
            and stored.numel() == rows * groups * size
            and groups == to.format.groups(to.columns)
            and 0 <= index < to.count
            and 0 <= first <= to.rows - rows
        )
        if not fits or not (stored.is_contiguous() and to.blocks.is_contiguous()):
            raise ValueError(f"{tuple(stored.shape)} bytes of {encoding} do not fit from row {first} on of {to.shape}")
        if order is not None and sorted(order) != list(range(rows)):
            raise ValueError(f"the order is not a permutation of {rows} rows")
        places = None if order is None else (c_int32 * rows)(*order)
        blocks = to.blocks[index * to.row_blocks : (index + 1) * to.row_blocks]
        if first == 0 and to.rows % ROWS:
            blocks[-1].zero_()
        self._handle.llm_pack(
            _NUMBERS[encoding],
            stored.data_ptr(),
            groups * size,
            places,
            rows,
            groups,
            first,
            blocks.data_ptr(),
        )
