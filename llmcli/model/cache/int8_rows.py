"""Keys and values in 8 bits: each 32 consecutive numbers share a scale in float16, as in GGUF's Q8_0.

A row holds its numbers as signed bytes, then its scales. A number x becomes round(x / scale), and the scale is the
greatest magnitude among the 32, divided by 127. `csrc/attention/int8_rows.h` of the CPU kernel reads and writes the
same rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.model.config import INT8_GROUP

_GREATEST = 127


def pack_rows(values: Tensor) -> Tensor:
    """Round the rows of `values` (..., D) to bytes (..., bytes of a row).

    A group with NaN or infinity gets the scale NaN, so that reading it returns NaN.
    """
    size = values.shape[-1]
    grouped = _grouped(values.float())
    greatest = grouped.abs().amax(-1)
    scales = torch.where(greatest.isfinite(), greatest / _GREATEST, torch.nan).half()  # (..., G)
    codes = (grouped / scales.float().unsqueeze(-1)).nan_to_num(0).round().clamp(-_GREATEST, _GREATEST)
    bytes_of_scales = scales.contiguous().view(torch.int8)
    return torch.cat((codes.to(torch.int8).flatten(-2)[..., :size], bytes_of_scales), dim=-1)


def unpack_rows(rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The `size` numbers of each of `rows` (..., bytes of a row) in `dtype`: (..., D)."""
    if size == 0:
        return rows.to(dtype)
    scales = rows[..., size:].contiguous().view(torch.float16).float().unsqueeze(-1)  # (..., G, 1)
    return (_grouped(rows[..., :size].float()) * scales).flatten(-2)[..., :size].to(dtype)


def _grouped(values: Tensor) -> Tensor:
    """(..., D) in groups, padded with zeros: (..., G, 32)."""
    padded = F.pad(values, (0, -values.shape[-1] % INT8_GROUP))
    return padded.reshape(*values.shape[:-1], -1, INT8_GROUP)
