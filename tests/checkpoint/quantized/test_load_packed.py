"""GPTQ and AWQ weights are packed without requantization if packed blocks can hold their codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_packed import Packing, PackingSizes, attach_packed_matrices, planned_formats
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.read_packed import read_packed
from llmcli.checkpoint.tensors.parameter_sources import Source
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.errors import CheckpointError
from llmcli.inspection.core.hooks import blocks
from llmcli.model.meta_device import meta_model
from llmcli.model.quantized.layout import PackedFormat, narrow, wide
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedLinear
from tests.support.models.parity_cases import CASES as PARITY
from tests.support.models.tiny import edit_config, random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.quantized.cases import CASES, FP4, Case, awq, gptq, make, mlx, packed_integers, scaled_int8
from tests.support.quantized.models import MODULE, named, opened

# Groups of inputs are in order, as the configurations say.
KEPT = [
    "gptq 2 bits", "gptq 3 bits", "gptq 4 bits", "gptq, one group", "gptq v2", "awq", "awq, one group",
    "mlx 1 bits", "mlx 2 bits", "mlx 3 bits", "mlx 4 bits",
]  # fmt: skip
# Zero points are also in the middle.
KEPT_IN_8_BITS = [
    "gptq 8 bits, symmetric", "gptq 8 bits, symmetric, one group, v2", "int8 packed", "int8 channels, short scales",
    "mlx mxfp4", "fp4 beside fp8",
]  # fmt: skip


def in_order(case: Case) -> dict[str, object]:
    return {**case.config, "desc_act": False}


def weight(folder: Path, case: Case, config: dict[str, object]) -> QuantizedTensor:
    found = opened(folder, named(case), config)[MODULE + ".weight"]
    assert isinstance(found, QuantizedTensor)
    return found


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("shape", [(96, 64), (32, 160)])
def test_packed_codes_decode_to_the_values_of_the_formula(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    case = make(name, *shape)
    tensor = weight(tmp_path, case, in_order(case))
    assert tensor.groups is not None
    with TensorReader() as reader:
        whole = tensor.groups(reader, 0, shape[0])
        part = tensor.groups(reader, 8, 24)
    assert torch.equal(part.values(), whole[8:24].values())
    # Scales are unchanged; minima are rounded to half precision, and at most 16 x 0.025.
    error = (whole.values() - case.weight).abs().max()
    assert error <= 16 * 0.025 * 2**-11
    assert torch.equal(whole.codes, whole.codes.clamp(max=15))


@pytest.mark.parametrize("name", KEPT_IN_8_BITS)
@pytest.mark.parametrize("shape", [(96, 64), (32, 160)])
def test_8_bit_codes_are_exact(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    case = make(name, *shape)
    tensor = weight(tmp_path, case, in_order(case))
    assert tensor.groups is not None
    with TensorReader() as reader:
        whole, part = tensor.groups(reader, 0, shape[0]), tensor.groups(reader, 8, 24)
    assert whole.minimum is None and torch.equal(whole.values(), case.weight)
    assert torch.equal(part.values(), case.weight[8:24])


def test_small_bfloat16_scales_become_half_precision(tmp_path: Path) -> None:
    case = make("int8 channels, short scales", 96, 64)
    scale = torch.logspace(-7, 0, 96)[:, None].bfloat16()
    case.tensors[".weight_scale"].copy_(scale)
    tensor = weight(tmp_path, case, case.config)
    assert tensor.groups is not None
    with TensorReader() as reader:
        error = (tensor.groups(reader, 0, 96).values() - case.tensors[".weight"] * scale.float()).abs().amax(1)
    assert float(error[scale[:, 0] >= 2**-17].max()) == 0
    assert 0 < float(error.max()) <= 2**-18


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*KEPT, *KEPT_IN_8_BITS)])
def test_codes_that_blocks_cannot_hold_are_not_packed(name: str, tmp_path: Path) -> None:
    case = make(name, 96, 64)
    found = opened(tmp_path, named(case), case.config)[MODULE + ".weight"]
    assert getattr(found, "groups", None) is None


@pytest.mark.parametrize(
    ("name", "config", "scales"),
    [
        ("gptq 4 bits", {}, torch.float16),  # with a group table that the configuration does not mention
        ("gptq 4 bits", {"desc_act": True}, torch.float16),
        ("gptq 4 bits", {"desc_act": False}, torch.float32),
        ("awq", {}, torch.bfloat16),
        ("gptq 8 bits, symmetric", {"sym": False}, torch.float16),
        ("gptq 8 bits, symmetric", {"sym": None}, torch.float16),
        # Settings of other modules may apply to this one: names are patterns.
        ("gptq 8 bits, symmetric", {"dynamic": {"-:lm_head": {}, "+:.*": {"bits": 8, "sym": False}}}, torch.float16),
        ("gptq 8 bits, symmetric", {"extra_config": {"a": {"bits": 8, "sym": False}}}, torch.float16),
        ("gptq 4 bits", {"desc_act": False, "dynamic": {"+:.*": {"desc_act": True}}}, torch.float16),
    ],
)
def test_group_order_and_scale_type_decide_about_packing(
    name: str, config: dict[str, object], scales: torch.dtype, tmp_path: Path
) -> None:
    case = make(name, 96, 64)
    case.tensors[".scales"] = case.tensors[".scales"].to(scales)
    assert weight(tmp_path, case, {**case.config, **config}).groups is None


@pytest.mark.parametrize("modules", [{"-:lm_head": {}, "+:.*": {"bits": 8, "sym": True}}, {"+:.*": {"bits": 8}}])
def test_module_settings_equal_to_the_general_ones_do_not_matter(modules: dict[str, object], tmp_path: Path) -> None:
    case = make("gptq 8 bits, symmetric", 96, 64)
    assert weight(tmp_path, case, {**case.config, "dynamic": modules}).groups is not None


def test_groups_out_of_order_against_the_configuration_are_refused(tmp_path: Path) -> None:
    case = make("gptq, act order", 96, 64)
    tensor = weight(tmp_path, case, in_order(case))
    assert tensor.groups is not None
    with TensorReader() as reader, pytest.raises(CheckpointError, match=r"another order.*--dtype bfloat16"):
        tensor.groups(reader, 0, 16)


def test_asymmetric_zero_points_against_the_configuration_are_refused(tmp_path: Path) -> None:
    case = make("gptq 8 bits", 96, 64)
    tensor = weight(tmp_path, case, {**in_order(case), "sym": True})
    assert tensor.groups is not None
    with TensorReader() as reader, pytest.raises(CheckpointError, match=r"other than 128.*--dtype bfloat16"):
        tensor.groups(reader, 0, 16)


def quantized_model(folder: Path, made: Callable[[tuple[int, int], int], Case]) -> dict[str, Case]:
    """Save a llama with quantized projections, each made by `made(shape, number)`."""
    tiny_checkpoint(folder, "llama", hidden_size=64, intermediate_size=160, num_hidden_layers=2)
    stored = load_file(folder / "model.safetensors")
    cases: dict[str, Case] = {}
    for index, weight in enumerate(sorted(name for name in stored if name.endswith("_proj.weight"))):
        rows, columns = stored.pop(weight).shape
        cases[weight] = case = made((rows, columns), index)
        stored |= named(case, weight.removesuffix(".weight"))
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, folder / "model.safetensors")
    edit_config(folder, {"quantization_config": in_order(case)})
    return cases


@pytest.mark.parametrize(
    ("name", "quantize"),
    [
        ("gptq 4 bits", None), ("awq", None), ("gptq 4 bits", "int4"), ("awq", "int4"),
        ("gptq 8 bits, symmetric", None), ("gptq 8 bits, symmetric", "int8"), ("int8 packed", None),
        ("mlx 4 bits", None), ("mlx mxfp4", None),
    ],
)  # fmt: skip
def test_models_compute_with_packed_codes(name: str, quantize: str | None, tmp_path: Path) -> None:
    quantized_model(tmp_path, lambda shape, index: make(name, *shape, seed=index))
    loaded = llmcli.load(tmp_path, device="cpu", quantize=quantize)
    if loaded.packing is None:
        pytest.skip("nothing computes with packed weights on this machine")
    dense = llmcli.load(tmp_path, device="cpu", dtype="float32")
    for path, module in dense.model.named_modules():
        if isinstance(module, torch.nn.Linear) and path.endswith("_proj"):
            ours = loaded.model.get_submodule(path)
            assert isinstance(ours, QuantizedLinear)
            torch.testing.assert_close(ours.weight.float(), module.weight, atol=0.002, rtol=0.01)
    ids = random_ids(12)
    # In one case head and embedding have 8 bits, and activations 16.
    alike = torch.nn.functional.cosine_similarity(loaded.logits(ids).float(), dense.logits(ids), dim=-1)
    assert alike.min() > 0.98


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("maker", "kept"),
    [
        (partial(gptq, bits=4, group=32), wide(4, 32)),
        (partial(gptq, bits=4, group=128), wide(4)),
        (partial(gptq, bits=3, group=-1, version="gptq_v2"), wide(4)),
        (partial(awq, group=64), wide(4, 32)),
        (partial(mlx, bits=4, group=32), wide(4, 32)),
        (partial(awq, group=128), wide(4)),
        (partial(gptq, bits=8, group=32, symmetric=True), wide(8, 32)),
        (partial(gptq, bits=8, group=128, symmetric=True), wide(8, 128)),
        (partial(packed_integers, bits=8, group=256), wide(8, 128)),
        (partial(scaled_int8, zeros=False, scale=torch.bfloat16), wide(8, 128)),
    ],
)
def test_long_groups_are_kept_on_a_gpu(
    maker: Callable[..., Case],
    kept: PackedFormat,
    stored: bool,
    tmp_path: Path,
) -> None:
    cases = quantized_model(tmp_path, lambda shape, index: maker(*shape, torch.Generator().manual_seed(index)))
    checkpoint = open_checkpoint(tmp_path)
    model = meta_model(checkpoint.config)
    packing: Packing = "stored" if stored else "int4" if kept.bits == 4 else "int8"
    planned = planned_formats(model, packing, checkpoint, torch.device("cuda"), PackingSizes(short_groups_below=0))
    head = wide(8) if kept == wide(4) else wide(8, kept.group)
    assert planned.get("lm_head.weight") == (None if stored else head)
    matrices = attach_packed_matrices(model, planned, torch.float32, torch.device("cpu"))
    with TensorReader() as reader:
        for name, case in cases.items():
            parameter = name.removeprefix("model.")
            matrix = matrices[parameter]
            assert matrix.format == kept
            read_packed(checkpoint.sources[parameter], checkpoint.tensors, reader, matrix)
            # Codes and scales are unchanged; only minima are rounded, and they are at most 16 x 0.025.
            assert float((matrix[0] - case.weight).abs().max()) <= (16 * 0.025 * 2**-11 if kept.bits == 4 else 0)


def test_matrices_of_a_quantized_stack_are_quantized_again(tmp_path: Path) -> None:
    """A chunk has fewer rows than a matrix."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(3, 40, 64, generator=rng).to(torch.float8_e4m3fn)
    factors = torch.rand(3, 3, 4, generator=rng) + 0.5
    config = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    stored = opened(tmp_path, {"e.down_proj": codes, "e.down_proj_scale_inv": factors}, config)
    matrix = PackedMatrix(narrow(8), 40, 64, dtype=torch.float32, count=3)
    with TensorReader() as reader:
        read_packed(Source("e.down_proj"), stored, reader, matrix, sizes=PackingSizes(values=1 << 10))
        expected = stored["e.down_proj"].read_rows(reader, 0, 3).view(3, 40, 64)
    for index in range(3):
        assert float((matrix[index] - expected[index]).norm() / expected[index].norm()) < 0.006


def test_experts_of_gpt_oss_keep_their_values(tmp_path: Path) -> None:
    model_type, overrides = PARITY["gpt-oss"]
    folder = tiny_checkpoint(tmp_path, model_type, **{**overrides, "hidden_size": 64, "intermediate_size": 32})
    rng, path = torch.Generator().manual_seed(0), folder / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        count, columns, rows = tensors.pop(name).shape
        shape = count, rows, columns // 32
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), generator=rng, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, generator=rng, dtype=torch.uint8)
    save_file(tensors, path, metadata={"format": "pt"})
    edit_config(folder, {"quantization_config": {"quant_method": "mxfp4"}})
    loaded = llmcli.load(folder, device="cpu"), llmcli.load(folder, device="cpu", dtype="float32")
    if loaded[0].packing is None:
        pytest.skip("nothing computes with packed weights on this machine")
    kept, dense = ([block.mlp.experts for block in blocks(one.model)] for one in loaded)
    for packed, plain in zip(kept, dense, strict=True):
        for part in ("gate_up_proj", "down_proj"):
            matrices, expected = getattr(packed, part), getattr(plain, part)
            assert isinstance(matrices, PackedMatrix)
            assert all(torch.equal(matrices[index].float(), values) for index, values in enumerate(expected))
    # Gate and up alternate in the file.
    byte = tensors["model.layers.0.mlp.experts.gate_up_proj_blocks"][0, 1, 0, 0]
    scale = 2.0 ** (int(tensors["model.layers.0.mlp.experts.gate_up_proj_scales"][0, 1, 0]) - 127)
    first: Any = dense[0]
    assert float(first.gate_up_proj[0, 32, 0]) == FP4[int(byte) & 15] * scale
