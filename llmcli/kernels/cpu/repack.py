"""Pack stored weights into blocks in C, at the speed of memory: from GGUF's block formats and from plain numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_int32

from torch import Tensor

from llmcli.kernels.cpu.build import Library, load_library
from llmcli.kernels.cpu.c_structs import FORMATS, Packing
from llmcli.model.quantized.layout import ROWS, PackedFormat, narrow
from llmcli.model.quantized.matrix import PackedMatrix

# Values and bytes of a block, in the order of `csrc/repack/pack.h`.
_STORED: dict[str, tuple[int, int]] = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q4_K": (256, 144), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
    "IQ1_S": (256, 50), "Q5_0": (32, 22), "Q8_0": (32, 34), "IQ2_XXS": (256, 66), "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "MXFP4": (32, 17), "Q5_1": (32, 24),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ1_M": (256, 56),
    "IQ2_XS": (256, 74), "IQ2_S": (256, 82),
}  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(_STORED)}
# The grid of each format that has one.
_GRIDS = {
    "IQ1_S": "IQ1_S", "IQ1_M": "IQ1_S", "IQ2_XXS": "IQ2_XXS", "IQ2_XS": "IQ2_XS", "IQ2_S": "IQ2_S",
    "IQ3_XXS": "IQ3_XXS", "IQ3_S": "IQ3_S",
}  # fmt: skip


class BlockPacker:
    """Packs rows of the supported encodings.

    The result equals torch's, bit for bit, except that plain numbers may be rounded to other codes of 4 bits where two
    choices have the same error.
    """

    def __init__(self, grid_of: Callable[[str], bytes], library: Library | None = None) -> None:
        """Load the C kernel, or compile it. `grid_of` gives the bytes of a grid of GGUF's formats.

        Raises:
            NoKernelError: it cannot run on this machine.
        """
        self._handle = (library or load_library()).handle
        self._grid_of = grid_of
        self._grids: dict[str, ctypes.Array[ctypes.c_char]] = {}

    @staticmethod
    def knows(encoding: str, kept: PackedFormat) -> bool:
        """Whether rows stored as `encoding` can be packed in the format `kept`."""
        return encoding in _STORED and kept == narrow(kept.bits)

    def pack(
        self,
        encoding: str,
        stored: Tensor,
        to: PackedMatrix,
        index: int,
        first: int,
        order: Sequence[int] | None = None,
    ) -> None:
        """Pack `stored`, uint8 (N, blocks of a row, block bytes), into rows `first` to `first + N` of matrix `index`.

        With `order`, row i comes from row `order[i]` of `stored`. The rows that start at 0 must come first: the padding
        of the last block is set to zero with them.

        Raises:
            ValueError: the bytes do not fit the matrix, or `order` is not a permutation.
        """
        values, size = _STORED[encoding]
        rows, row_bytes = len(stored), to.columns // values * size
        fits = (
            self.knows(encoding, to.format)
            and to.columns % values == 0
            and stored.nbytes == rows * row_bytes
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
        packing = Packing(self._grid(encoding), _NUMBERS[encoding], FORMATS[to.bits], to.columns)
        self._handle.llm_pack(packing, stored.data_ptr(), row_bytes, places, rows, first, blocks.data_ptr())

    def _grid(self, encoding: str) -> int | None:
        """The address of the grid of an encoding, if it has one."""
        name = _GRIDS.get(encoding)
        if name is None:
            return None
        if name not in self._grids:
            grid = self._grid_of(name)
            self._grids[name] = ctypes.create_string_buffer(grid, len(grid))
        return ctypes.addressof(self._grids[name])
