"""Quantized weights made from codes, scales and zero points, and what they must decode to by the published formulas.

The packers go through Python's unlimited integers, bit by bit as the layouts are described, and share nothing with the
decoders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


@dataclass(frozen=True)
class Case:
    """One quantized weight: its stored tensors by name after the module's, and the decoded W."""

    tensors: dict[str, Tensor]
    weight: Tensor
    config: dict[str, Any]


Maker = Callable[[int, int, torch.Generator], Case]


def packed_rows(matrix: Tensor, bits: int) -> Tensor:
    """Pack each row into words, the first value in the lowest bits."""
    rows = []
    for row in matrix.tolist():
        number = sum(value << (index * bits) for index, value in enumerate(row))
        rows.append([number >> (32 * word) & 0xFFFFFFFF for word in range(-(-len(row) * bits // 32))])
    return torch.tensor(rows).to(torch.int32)


def codes(low: int, high: int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randint(low, high, shape, generator=rng)


def scales(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng) * 0.02 + 0.005


def spread(grid: Tensor, rows: int, columns: int, shape: tuple[int, int]) -> Tensor:
    """Each value of a grid repeated over its cell, cut off where the weight ends."""
    return grid.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]


def gptq(
    n: int,
    k: int,
    rng: torch.Generator,
    *,
    bits: int,
    group: int,
    act_order: bool = False,
    version: str = "gptq",
    symmetric: bool = False,
) -> Case:
    size = k if group == -1 else group
    count = -(-k // size)
    q, z = codes(0, 1 << bits, (n, k), rng), codes(0, 1 << bits, (n, count), rng)
    if symmetric:
        z = torch.full_like(z, 1 << (bits - 1))
    s = scales((n, count), rng).half()
    groups = torch.arange(k) // size
    if act_order:
        groups = groups[torch.randperm(k, generator=rng)]
    stored_zeros = (z - 1) % (1 << bits) if version == "gptq" else z
    tensors = {
        ".qweight": packed_rows(q, bits).T,
        ".qzeros": packed_rows(stored_zeros.T, bits),
        ".scales": s.T,
        ".g_idx": groups.int(),
    }
    if group != -1 and not act_order and bits == 8:
        del tensors[".g_idx"]
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": version, "sym": symmetric}
    return Case(tensors, s.float()[:, groups] * (q - z[:, groups]), config)


def awq(n: int, k: int, rng: torch.Generator, *, group: int) -> Case:
    size = k if group == -1 else group
    count = -(-k // size)
    q, z = codes(0, 16, (n, k), rng), codes(0, 16, (n, count), rng)
    s = scales((n, count), rng).half()

    def packed(matrix: Tensor) -> Tensor:  # (n, columns) to (columns, n / 8)
        places = (0, 4, 1, 5, 2, 6, 3, 7)
        rows = []
        for column in matrix.T.tolist():
            octets = [column[first : first + 8] for first in range(0, len(column), 8)]
            rows.append([sum(v << (4 * place) for v, place in zip(o, places, strict=True)) for o in octets])
        return torch.tensor(rows).to(torch.int32)

    groups = torch.arange(k) // size
    tensors = {".qweight": packed(q), ".qzeros": packed(z), ".scales": s.T}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return Case(tensors, s.float()[:, groups] * (q - z[:, groups]), config)


def compressed_config(form: str, **weights: object) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


def packed_integers(
    n: int,
    k: int,
    rng: torch.Generator,
    *,
    bits: int,
    group: int | None = None,
    zeros: str = "none",
    act_order: bool = False,
) -> Case:
    size = group or k
    count = -(-k // size)
    half = 1 << (bits - 1)
    q, z = codes(-half, half, (n, k), rng), codes(-half, half, (n, count), rng)
    s = scales((n, count), rng).bfloat16()
    groups = torch.arange(k) // size
    tensors = {
        ".weight_packed": packed_rows(q + half, bits),
        ".weight_scale": s,
        ".weight_shape": torch.tensor([n, k]),
    }
    if act_order:
        groups = groups[torch.randperm(k, generator=rng)]
        tensors[".weight_g_idx"] = groups.int()
    if zeros == "packed":
        tensors[".weight_zero_point"] = packed_rows((z + half).T, bits).T
    elif zeros == "int8":
        tensors[".weight_zero_point"] = z.to(torch.int8)
    else:
        z = torch.zeros_like(z)
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    config = compressed_config("pack-quantized", num_bits=bits, **strategy)
    return Case(tensors, (q - z[:, groups]) * s.float()[:, groups], config)


def scaled_int8(n: int, k: int, rng: torch.Generator, *, zeros: bool, scale: torch.dtype = torch.float32) -> Case:
    q, z = codes(-128, 128, (n, k), rng), codes(-128, 128, (n, 1), rng)
    s = scales((n, 1), rng).to(scale)
    tensors = {".weight": q.to(torch.int8), ".weight_scale": s, ".input_scale": torch.ones(1)}
    if zeros:
        tensors[".weight_zero_point"] = z.to(torch.int8)
    config = compressed_config("int-quantized", num_bits=8, strategy="channel")
    return Case(tensors, (q - (z if zeros else 0)) * s.float(), config)


def fp8_codes(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng).mul(8).to(torch.float8_e4m3fn)


def fp8(
    n: int,
    k: int,
    rng: torch.Generator,
    *,
    config: dict[str, Any],
    cell: tuple[int, int] | None = None,
    scale_shape: tuple[int, ...] | None = None,
    scale: str = ".weight_scale",
    powers: torch.dtype | None = None,
) -> Case:
    """FP8 with a grid of scales; `cell` None means one scale, `powers` that scales are bytes with exponents."""
    cell = cell or (n, k)
    cell = (min(cell[0], n), min(cell[1], k))
    w = fp8_codes((n, k), rng)
    grid = (-(-n // cell[0]), -(-k // cell[1]))
    if powers is None:
        stored = values = scales(grid, rng)
    else:
        exponents = codes(115, 125, grid, rng)
        stored, values = exponents.to(torch.uint8).view(powers), torch.pow(2.0, exponents - 127)
    if scale_shape is not None:
        stored = stored.reshape(scale_shape)
    tensors = {".weight": w, scale: stored}
    if cell == (n, k):
        tensors[".input_scale"] = torch.ones(())
    return Case(tensors, w.float() * spread(values, *cell, (n, k)), config)


def fp4_bytes(q: Tensor) -> Tensor:
    """Pack two codes into each byte, the even one in the lower nibble."""
    return torch.tensor([[low | high << 4 for low, high in zip(r[::2], r[1::2], strict=True)] for r in q.tolist()]).to(
        torch.uint8
    )


def nvfp4(n: int, k: int, rng: torch.Generator, *, modelopt: bool) -> Case:
    q, s = codes(0, 16, (n, k), rng), (scales((n, k // 16), rng) * 1000).to(torch.float8_e4m3fn)
    factor = torch.tensor([0.0004 if modelopt else 2500.0])
    values = torch.tensor(FP4)[q]
    if modelopt:
        tensors = {".weight": fp4_bytes(q), ".weight_scale": s, ".weight_scale_2": factor.reshape(())}
        weight = values * spread(s.float() * factor, 1, 16, (n, k))
        return Case(tensors, weight, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    tensors = {".weight_packed": fp4_bytes(q), ".weight_scale": s, ".weight_global_scale": factor}
    weight = values * spread(s.float() / factor, 1, 16, (n, k))
    config = compressed_config("nvfp4-pack-quantized", num_bits=4, strategy="tensor_group", group_size=16, type="float")
    return Case(tensors, weight, config)


def mxfp4(n: int, k: int, rng: torch.Generator) -> Case:
    q, exponents = codes(0, 16, (n, k), rng), codes(117, 122, (n, k // 32), rng)
    tensors = {".weight_packed": fp4_bytes(q), ".weight_scale": exponents.to(torch.uint8)}
    weight = torch.tensor(FP4)[q] * spread(torch.pow(2.0, exponents - 127), 1, 32, (n, k))
    config = compressed_config("mxfp4-pack-quantized", num_bits=4, strategy="group", group_size=32, type="float")
    return Case(tensors, weight, config)


def fp4_beside_fp8(n: int, k: int, rng: torch.Generator) -> Case:
    """The experts of DeepSeek-V4: as `mxfp4`, with signed bytes and other names."""
    made = mxfp4(n, k, rng)
    scale = made.tensors[".weight_scale"].view(torch.float8_e8m0fnu)
    tensors = {".weight": made.tensors[".weight_packed"].view(torch.int8), ".scale": scale}
    return Case(tensors, made.weight, fp8_blocks(128, 128))


def mlx(n: int, k: int, rng: torch.Generator, *, bits: int, group: int = 32, scale: torch.dtype | None = None) -> Case:
    q, s = codes(0, 1 << bits, (n, k), rng), scales((n, k // group), rng).to(scale or torch.float16)
    b = (s.float() * -(1 << (bits - 1)) * (torch.rand(s.shape, generator=rng) * 0.4 + 0.8)).to(s.dtype)
    tensors = {".weight": packed_rows(q, bits).view(torch.uint32), ".scales": s, ".biases": b}
    shape = (n, k)
    weight = q.float() * spread(s.float(), 1, group, shape) + spread(b.float(), 1, group, shape)
    return Case(tensors, weight, {"group_size": group, "bits": bits, "mode": "affine"})


def mlx_floats(n: int, k: int, rng: torch.Generator, *, mode: str) -> Case:
    """The modes of MLX that store 4-bit or 8-bit floats with a scale of 8 bits for each group."""
    group = 16 if mode == "nvfp4" else 32
    if mode == "mxfp8":
        w = fp8_codes((n, k), rng)
        stored, values = w.view(torch.uint8).view(torch.uint32), w.float()
    else:
        q = codes(0, 16, (n, k), rng)
        stored, values = packed_rows(q, 4).view(torch.uint32), torch.tensor(FP4)[q]
    if mode == "nvfp4":
        fp8_scales = (scales((n, k // group), rng) * 10).to(torch.float8_e4m3fn)
        kept, s = fp8_scales.view(torch.uint8), fp8_scales.float()
    else:
        exponents = codes(115, 122, (n, k // group), rng)
        kept, s = exponents.to(torch.uint8), torch.pow(2.0, exponents - 127)
    config = {"group_size": group, "bits": 8 if mode == "mxfp8" else 4, "mode": mode}
    return Case({".weight": stored, ".scales": kept}, values * spread(s, 1, group, (n, k)), config)


def bitsandbytes4(
    n: int,
    k: int,
    rng: torch.Generator,
    *,
    kind: str,
    nested: bool,
    block: int = 64,
    storage: torch.dtype = torch.uint8,
) -> Case:
    q = codes(0, 16, (n * k,), rng).tolist()
    blocks = -(-n * k // block)
    levels = torch.sort(torch.rand(16, generator=rng) * 2 - 1).values if kind == "nf4" else torch.tensor(FP4) / 6
    stored = torch.tensor([a << 4 | b for a, b in zip(q[::2], [*q[1::2], *([0] * (len(q) % 2))], strict=True)])
    state: dict[str, object] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [n, k]}
    tensors = {
        ".weight": stored.to(torch.uint8).view(storage).unsqueeze(1),
        ".weight.quant_map": levels,
    }
    if nested:
        size, offset = 4, 0.125
        table, factors = torch.rand(256, generator=rng), torch.rand(-(-blocks // size), generator=rng)
        indices = codes(0, 256, (blocks,), rng)
        absmax = table[indices] * factors.repeat_interleave(size)[:blocks] + offset
        tensors |= {
            ".weight.absmax": indices.to(torch.uint8),
            ".weight.nested_absmax": factors,
            ".weight.nested_quant_map": table,
        }
        state |= {"nested_blocksize": size, "nested_dtype": "float32", "nested_offset": offset}
    else:
        absmax = tensors[".weight.absmax"] = torch.rand(blocks, generator=rng)
    raw = json.dumps(state).encode()
    tensors[f".weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(raw), dtype=torch.uint8)
    weight = levels[torch.tensor(q)] * absmax.repeat_interleave(block)[: n * k]
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Case(tensors, weight.view(n, k), config)


def bitsandbytes8(n: int, k: int, rng: torch.Generator) -> Case:
    q, scb = codes(-127, 128, (n, k), rng), torch.rand(n, generator=rng)
    tensors = {".weight": q.to(torch.int8), ".SCB": scb, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    return Case(tensors, q * scb[:, None] / 127, {"quant_method": "bitsandbytes", "load_in_8bit": True})


def fp8_blocks(rows: int, columns: int) -> dict[str, Any]:
    return {"quant_method": "fp8", "weight_block_size": [rows, columns]}


_TENSOR = compressed_config("float-quantized", num_bits=8, type="float", strategy="tensor")
_CHANNEL = compressed_config("float-quantized", num_bits=8, type="float", strategy="channel")
_BLOCK = compressed_config("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[24, 40])
_MX = compressed_config("mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32)

CASES: dict[str, Maker] = {
    **{f"gptq {bits} bits": partial(gptq, bits=bits, group=32) for bits in (2, 3, 4, 8)},
    "gptq, one group": partial(gptq, bits=4, group=-1),
    "gptq, act order": partial(gptq, bits=4, group=32, act_order=True),
    "gptq v2": partial(gptq, bits=4, group=32, version="gptq_v2"),
    "gptq 3 bits, v2, act order": partial(gptq, bits=3, group=16, version="gptq_v2", act_order=True),
    "gptq 8 bits, symmetric": partial(gptq, bits=8, group=32, symmetric=True),
    "gptq 8 bits, symmetric, one group, v2": partial(gptq, bits=8, group=-1, symmetric=True, version="gptq_v2"),
    "awq": partial(awq, group=32),
    "awq, one group": partial(awq, group=-1),
    "int4 groups": partial(packed_integers, bits=4, group=32),
    "int4 channels": partial(packed_integers, bits=4),
    "int4 groups, zeros": partial(packed_integers, bits=4, group=16, zeros="packed"),
    "int4 channels, zeros": partial(packed_integers, bits=4, zeros="packed"),
    "int4 groups, plain zeros": partial(packed_integers, bits=4, group=16, zeros="int8"),
    "int4 groups, act order": partial(packed_integers, bits=4, group=32, act_order=True),
    "int8 packed": partial(packed_integers, bits=8, group=32),
    "int3 groups, zeros": partial(packed_integers, bits=3, group=32, zeros="packed"),
    "int6 channels": partial(packed_integers, bits=6),
    "int8 channels": partial(scaled_int8, zeros=False),
    "int8 channels, short scales": partial(scaled_int8, zeros=False, scale=torch.bfloat16),
    "int8 channels, zeros": partial(scaled_int8, zeros=True),
    "compressed fp8, tensor": partial(fp8, config=_TENSOR, scale_shape=(1,)),
    "compressed fp8, channel": partial(fp8, config=_CHANNEL, cell=(1, 1 << 20)),
    "compressed fp8, block": partial(fp8, config=_BLOCK, cell=(24, 40)),
    "mxfp8": partial(fp8, config=_MX, cell=(1, 32), powers=torch.uint8),
    "fp8 blocks": partial(fp8, config=fp8_blocks(24, 40), cell=(24, 40), scale=".weight_scale_inv"),
    "fp8 blocks, powers of two": partial(
        fp8, config=fp8_blocks(128, 128), cell=(128, 128), scale=".weight_scale_inv", powers=torch.float8_e8m0fnu
    ),
    "fp8, one scale": partial(
        fp8, config={"quant_method": "fp8", "weight_block_size": None}, scale=".weight_scale_inv", scale_shape=()
    ),
    "fp8, short names": partial(fp8, config=fp8_blocks(16, 16), cell=(16, 16), scale=".scale"),
    "fbgemm fp8": partial(fp8, config={"quant_method": "fbgemm_fp8"}, cell=(1, 1 << 20)),
    "modelopt fp8": partial(fp8, config={"quant_method": "modelopt", "quant_algo": "FP8"}, scale_shape=()),
    "modelopt nvfp4": partial(nvfp4, modelopt=True),
    "compressed nvfp4": partial(nvfp4, modelopt=False),
    "compressed mxfp4": mxfp4,
    "fp4 beside fp8": fp4_beside_fp8,
    "nf4": partial(bitsandbytes4, kind="nf4", nested=False),
    "nf4 nested": partial(bitsandbytes4, kind="nf4", nested=True),
    "nf4 nested, stored as bfloat16": partial(bitsandbytes4, kind="nf4", nested=True, storage=torch.bfloat16),
    "fp4": partial(bitsandbytes4, kind="fp4", nested=False, block=128),
    "bitsandbytes int8": bitsandbytes8,
    **{f"mlx {bits} bits": partial(mlx, bits=bits) for bits in (1, 2, 3, 4, 5, 6, 8)},
    "mlx 4 bits, long scales": partial(mlx, bits=4, scale=torch.float32),
    **{f"mlx {mode}": partial(mlx_floats, mode=mode) for mode in ("mxfp4", "nvfp4", "mxfp8")},
}


def make(name: str, rows: int = 96, columns: int = 64, *, seed: int = 0) -> Case:
    """The weight (rows, columns) of a case of the list."""
    case = CASES[name](rows, columns, torch.Generator().manual_seed(seed))
    assert case.weight.shape == (rows, columns) and math.isfinite(float(case.weight.abs().max()))
    return case
