"""Quantized checkpoints: each layout against the published formula, whole models, and refusals."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.quantized.detect import collapse_quantized
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.safetensors_folder import read_safetensors_folder
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.quantized.cases import CASES, FP4, codes, fp4_bytes, fp8_codes, make, scales, spread
from tests.support.quantized.models import MODULE, named, opened, save_quantized


def read(tensor: StoredTensor, *, step: int | None = None) -> Tensor:
    rows = tensor.shape[0]
    with TensorReader() as reader:
        pieces = [
            tensor.read_rows(reader, first, min(rows, first + (step or rows))) for first in range(0, rows, step or rows)
        ]
    return torch.cat(pieces).view(tensor.shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(96, 64), (32, 160)])
def test_decoded_values_equal_the_published_formula(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    case = make(name, *shape)
    found = opened(tmp_path, {**named(case), "model.norm.weight": torch.ones(3)}, case.config)
    assert set(found) == {MODULE + ".weight", "model.norm.weight"}
    weight = found[MODULE + ".weight"]
    assert weight.shape == shape
    assert weight.nbytes >= sum(part.nbytes for name, part in case.tensors.items() if name in (".weight", ".qweight"))
    values = read(weight)
    assert values.dtype == torch.float32
    assert torch.equal(values, case.weight)
    # Rows in chunks that are not aligned with any packing, and all at once.
    assert torch.equal(read(weight, step=13), case.weight)
    with TensorReader() as reader:
        assert weight.read_rows(reader, 5, 5).shape == (0, shape[1])


UNEVEN = {
    "int4 channels": (5, 13),
    "int4 channels, zeros": (5, 13),
    "int3 groups, zeros": (35, 45),
    "int6 channels": (7, 11),
    "int4 groups, act order": (3, 50),
    "compressed fp8, block": (25, 41),
    "fp8 blocks": (23, 81),
    "fp8 blocks, powers of two": (150, 130),
    "nf4 nested": (7, 13),
    "fp4": (3, 5),
    "bitsandbytes int8": (3, 5),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_sizes_that_are_no_multiple_of_a_word_or_block(tmp_path: Path, name: str) -> None:
    case = make(name, *UNEVEN[name])
    weight = opened(tmp_path, named(case), case.config)[MODULE + ".weight"]
    assert torch.equal(read(weight), case.weight)
    assert torch.equal(read(weight, step=2), case.weight)


def test_experts_in_one_tensor(tmp_path: Path) -> None:
    """FP8 experts: one block grid each, and names without `.weight`."""
    rng = torch.Generator().manual_seed(0)
    w, s = fp8_codes((3, 50, 40), rng), scales((3, 4, 3), rng)
    config = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    found = opened(tmp_path, {"experts.gate_up_proj": w, "experts.gate_up_proj_scale_inv": s}, config)
    weight = found["experts.gate_up_proj"]
    expected = torch.stack([w[e].float() * spread(s[e], 16, 16, (50, 40)) for e in range(3)])
    assert torch.equal(read(weight), expected)
    assert torch.equal(read(weight, step=2), expected)


def test_mxfp4_experts(tmp_path: Path) -> None:
    """gpt-oss: rows in the file's order, outputs first; the lower nibble is the even input."""
    rng = torch.Generator().manual_seed(0)
    q, exponents = codes(0, 16, (3, 10, 64), rng), codes(0, 255, (3, 10, 2), rng)
    blocks = torch.stack([fp4_bytes(expert) for expert in q]).view(3, 10, 2, 16)
    prefix = "model.layers.0.mlp.experts."
    tensors = {
        prefix + "gate_up_proj_blocks": blocks,
        prefix + "gate_up_proj_scales": exponents.to(torch.uint8),
        prefix + "gate_up_proj_bias": torch.zeros(3, 10),
    }
    found = opened(tmp_path, tensors, {"quant_method": "mxfp4"})
    names = [f"{prefix}{expert}.gate_up_proj.weight" for expert in range(3)]
    assert set(found) == {*names, prefix + "gate_up_proj_bias"}
    expected = torch.tensor(FP4)[q] * torch.pow(2.0, exponents - 127).repeat_interleave(32, 2)
    for name, values in zip(names, expected, strict=True):
        assert (found[name].shape, found[name].encoding) == ((10, 64), "MXFP4")
        assert torch.equal(read(found[name]), values)
        assert torch.equal(read(found[name], step=1), values)


def test_settings_may_differ_between_modules(tmp_path: Path) -> None:
    four, eight, plain = make("int4 groups"), make("compressed fp8, channel"), torch.ones(4, 4)
    config = json.loads(json.dumps(four.config))
    config["format"] = "mixed-precision"
    config["config_groups"]["group_1"] = eight.config["config_groups"]["group_0"]
    tensors = {**named(four, "a"), **named(eight, "b"), "c.weight": plain}
    found = opened(tmp_path, tensors, config)
    assert torch.equal(read(found["a.weight"]), four.weight)
    assert torch.equal(read(found["b.weight"]), eight.weight)
    assert isinstance(found["c.weight"], TensorInfo)


def test_gptq_bits_may_differ_between_modules(tmp_path: Path) -> None:
    four, eight = make("gptq, act order"), make("gptq 8 bits")
    config = {**four.config, "dynamic": {"+:b": {"bits": 8}}}
    found = opened(tmp_path, {**named(four, "a"), **named(eight, "b")}, config)
    assert torch.equal(read(found["a.weight"]), four.weight)
    assert torch.equal(read(found["b.weight"]), eight.weight)


OTHER_PLACES: dict[str, tuple[str, str, dict[str, object]]] = {
    "quantize_config.json": ("gptq 4 bits", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False}),
    "quant_config.json": ("awq", "quant_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM"}),
    "hf_quant_config.json": ("modelopt fp8", "hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}),
}


@pytest.mark.parametrize("place", OTHER_PLACES)
def test_settings_may_be_in_separate_files(tmp_path: Path, place: str) -> None:
    name, file, content = OTHER_PLACES[place]
    case = make(name)
    (tmp_path / file).write_text(json.dumps(content))
    assert torch.equal(read(opened(tmp_path, named(case), {})[MODULE + ".weight"]), case.weight)


@pytest.mark.parametrize("packing", ["gptq", "awq"])
def test_auto_round_in_supported_packings(tmp_path: Path, packing: str) -> None:
    case = make("gptq 4 bits" if packing == "gptq" else "awq")
    config = {"quant_method": "auto-round", "packing_format": f"auto_round:{packing}", "bits": 4, "group_size": 32}
    assert torch.equal(read(opened(tmp_path, named(case), config)[MODULE + ".weight"]), case.weight)


def test_settings_may_be_in_the_text_config(tmp_path: Path) -> None:
    case = make("awq")
    save_file({name: tensor.contiguous() for name, tensor in named(case).items()}, tmp_path / "model.safetensors")
    keys = ConfigKeys({"text_config": {"quantization_config": case.config}}, tmp_path / "config.json")
    found = collapse_quantized(read_safetensors_folder(tmp_path), keys, tmp_path)
    assert torch.equal(read(found[MODULE + ".weight"]), case.weight)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "mxfp4"},
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
        {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}},
    ],
    ids=str,
)
def test_unquantized_weights_are_unchanged(tmp_path: Path, config: dict[str, Any]) -> None:
    found = opened(tmp_path, {MODULE + ".weight": torch.ones(4, 4), "k_scale": torch.ones(2, 2)}, config)
    assert isinstance(found[MODULE + ".weight"], TensorInfo)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_unused_group_table_is_ignored(tmp_path: Path, dtype: torch.dtype) -> None:
    case = make("int4 groups")
    tensors = {**named(case), MODULE + ".weight_g_idx": torch.full((64,), -1, dtype=dtype)}
    assert torch.equal(read(opened(tmp_path, tensors, case.config)[MODULE + ".weight"]), case.weight)


def test_scales_of_activations_and_caches_are_left_out(tmp_path: Path) -> None:
    case = make("compressed fp8, channel")
    extra = {
        MODULE + ".input_scale": torch.ones(1),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
        "model.layers.0.self_attn.v_scale": torch.ones(1),
    }
    kept = {MODULE + ".bias": torch.ones(96), "model.layers.0.altup.correct_output_scale": torch.ones(64)}
    assert set(opened(tmp_path, {**named(case), **extra, **kept}, case.config)) == {MODULE + ".weight", *kept}


def test_chunks_of_one_weight_read_the_file_once(tmp_path: Path) -> None:
    class Counting(TensorReader):
        bytes_read = 0

        def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
            self.bytes_read += (stop - start) * info.nbytes // info.rows
            return super().read_rows(info, start, stop)

    case = make("awq")
    found = opened(tmp_path, {**named(case, "a"), **named(make("awq", seed=1), "b")}, case.config)
    reader = Counting()
    with reader:
        for weight in found.values():
            for first in range(0, 96, 8):
                weight.read_rows(reader, first, first + 8)
    assert reader.bytes_read == sum(weight.nbytes for weight in found.values())


@pytest.mark.parametrize("name", CASES)
def test_quantized_models_equal_the_dequantized_ones(tmp_path: Path, name: str) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    folder = tmp_path / "quantized"
    plain = save_quantized(model, folder, name)
    reference = save(model, tmp_path / "plain")
    save_file(plain, reference / "model.safetensors")
    ids = random_ids(20)
    ours = llmcli.load(folder, dtype="float32", device="cpu").logits(ids)
    assert torch.equal(ours, llmcli.load(reference, dtype="float32", device="cpu").logits(ids))


def pairs_of_case_and_tensor() -> list[tuple[str, str]]:
    optional = (".input_scale", ".weight_format")
    return [(name, part) for name in CASES for part in make(name).tensors if part not in optional]


def damaged(tensor: Tensor) -> dict[str, Tensor]:
    """The tensor one entry shorter or longer along each dimension, and empty."""
    raw = tensor.contiguous()
    if raw.ndim == 0:
        return {"longer": raw.view(1).view(torch.uint8).repeat(2).view(raw.dtype)}
    variants = {"empty": raw[:0]}
    for dimension in range(raw.ndim):
        size = raw.shape[dimension]
        longer = torch.arange(size + 1).clamp(max=size - 1)
        # Indexing is not implemented for every 8-bit float.
        plain = raw.view(torch.uint8) if raw.element_size() == 1 else raw
        variants[f"longer along {dimension}"] = plain.index_select(dimension, longer).view(raw.dtype)
        if size > 1:
            variants[f"shorter along {dimension}"] = plain.index_select(dimension, longer[: size - 1]).view(raw.dtype)
    return variants


@pytest.mark.parametrize(("name", "part"), pairs_of_case_and_tensor())
def test_contradictory_shapes_are_refused(tmp_path: Path, name: str, part: str) -> None:
    case = make(name)
    for what, tensor in damaged(case.tensors[part]).items():
        tensors = {**named(case), MODULE + part: tensor}
        try:
            weight = opened(tmp_path, tensors, case.config)[MODULE + ".weight"]
        except CheckpointError as error:
            assert str(tmp_path) in str(error), what
            continue
        # Valid on its own: only the model's configuration shows that its shape is wrong. Words and blocks
        # at the end are only partly used, and brackets may be followed by blanks.
        read(weight)
        assert weight.shape != case.weight.shape or (what == "longer along 0" and part.endswith("__nf4")), what


@pytest.mark.parametrize(("name", "part"), pairs_of_case_and_tensor())
def test_missing_parts_and_wrong_types_are_refused(tmp_path: Path, name: str, part: str) -> None:
    case = make(name)
    wrong = {**named(case), MODULE + part: torch.zeros(case.tensors[part].shape, dtype=torch.float64)}
    if name in ("fp8, short names", "fp4 beside fp8") and part == ".weight":
        # "scale" may be the name of any tensor; loading the model reports that it is unused.
        return
    with pytest.raises(CheckpointError):
        opened(tmp_path, wrong, case.config)
    without = {key: tensor for key, tensor in named(case).items() if key != MODULE + part}
    if part in (".g_idx", ".weight_g_idx", ".weight_zero_point"):
        return
    with pytest.raises(CheckpointError, match="missing"):
        opened(tmp_path, without, case.config)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120))
def test_damaged_values_and_settings_are_refused(tmp_path: Path, seed: int) -> None:
    """Any content of tensors and settings gives values, or an error that names the fault."""
    rng = random.Random(seed)
    case = make(rng.choice(sorted(CASES)), seed=seed)
    tensors, config = named(case), json.loads(json.dumps(case.config))
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(sorted(tensors))
        raw = tensors[name].contiguous()
        data = bytearray(raw.view(-1).view(torch.uint8).tolist())
        for _ in range(rng.choice((1, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        tensors[name] = torch.tensor(data, dtype=torch.uint8).view(raw.dtype).view(raw.shape)
    if rng.random() < 0.5:
        settings = config
        if "config_groups" in config and rng.random() < 0.7:
            settings = config["config_groups"]["group_0"]["weights"]
        key = rng.choice(sorted(settings))
        settings[key] = rng.choice(
            (None, 0, -1, 3, 17, 1 << 40, 0.5, True, "", "x", [], [0, 0], [128, "a"], {}, {"a": 1})
        )
    try:
        for weight in opened(tmp_path, tensors, config).values():
            read(weight)
    except CheckpointError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize("value", [2, -1, 1 << 30])
@pytest.mark.parametrize(("name", "part"), [("gptq, act order", ".g_idx"), ("int4 groups, act order", ".weight_g_idx")])
def test_groups_that_do_not_exist_are_refused(tmp_path: Path, name: str, part: str, value: int) -> None:
    case = make(name)
    groups = case.tensors[part].clone()
    groups[7] = value
    weight = opened(tmp_path, {**named(case), MODULE + part: groups}, case.config)[MODULE + ".weight"]
    with pytest.raises(CheckpointError, match=f"names group {value}, but there are 2 groups"):
        read(weight)


STATES: dict[str, object] = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "no object": [1],
    "deep": b"[" * 60000,
    "no shape": {"blocksize": 64},
    "hostile shape": {"blocksize": 64, "shape": [1 << 62, 1 << 62]},
    "another shape": {"blocksize": 64, "shape": [96, 66]},
    "empty shape": {"blocksize": 64, "shape": []},
    "no block": {"blocksize": 0, "shape": [96, 64]},
    "another block": {"blocksize": 32, "shape": [96, 64]},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_damaged_bitsandbytes_states_are_refused(tmp_path: Path, state: object) -> None:
    case = make("nf4")
    raw = state if isinstance(state, bytes) else json.dumps(state).encode()
    tensors = {**named(case), MODULE + ".weight.quant_state.bitsandbytes__nf4": torch.tensor(list(raw)).to(torch.uint8)}
    with pytest.raises(CheckpointError):
        opened(tmp_path, tensors, case.config)


def test_a_weight_both_quantized_and_plain_is_refused(tmp_path: Path) -> None:
    case = make("gptq 4 bits")
    with pytest.raises(CheckpointError, match="twice"):
        opened(tmp_path, {**named(case), MODULE + ".weight": case.weight}, case.config)


def test_quantized_tensors_without_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no quantization_config"):
        opened(tmp_path, named(make("awq")), {})


def test_scales_of_unquantized_weights_are_refused(tmp_path: Path) -> None:
    case = make("int8 channels")
    with pytest.raises(CheckpointError, match="are not quantized"):
        opened(tmp_path, {**named(case), MODULE + ".weight": case.weight}, case.config)


def test_settings_that_fit_the_same_shapes_are_refused(tmp_path: Path) -> None:
    case = make("int4 groups", 96, 48)
    config = json.loads(json.dumps(case.config))
    config["config_groups"]["other"] = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 24}}
    with pytest.raises(UnsupportedModelError, match="cannot be distinguished"):
        opened(tmp_path, named(case), config)


GROUPS = {"group_0": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}}
REFUSED: dict[str, dict[str, object]] = {
    **{
        method: {"quant_method": method}
        for method in ("aqlm", "quip", "vptq", "spqr", "hqq", "eetq", "quanto", "torchao", "higgs", "exl3")
    },
    "a method that it does not name": {"bits": 4},
    "'marlin'": {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"},
    "format 'marlin'": {"quant_method": "gptq", "bits": 4, "group_size": 128, "is_marlin_format": True},
    "gptq with 5 bits": {"quant_method": "gptq", "bits": 5, "group_size": 128},
    "'gemv'": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"},
    "'exllama'": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "exllama"},
    "awq with 8 bits": {"quant_method": "awq", "bits": 8, "group_size": 128, "version": "gemm"},
    "llm-awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "backend": "llm-awq"},
    "packing 'auto_round'": {"quant_method": "auto-round", "bits": 4, "group_size": 128},
    "'marlin-24'": {"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": GROUPS},
    "'sparse-24-bitmask'": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": GROUPS,
        "sparsity_config": {"format": "sparse-24-bitmask"},
    },
    "a transform": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": GROUPS,
        "transform_config": {"config_groups": {"R1": {}}},
    },
    "'balanced'": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "strategy": "balanced"}}},
    },
    "'W4A16_AWQ'": {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_the_method_and_an_alternative(tmp_path: Path, what: str) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", num_hidden_layers=1)
    edit_config(folder, {"quantization_config": REFUSED[what]})
    with pytest.raises(UnsupportedModelError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert what.lower().replace("_", "-") in message.lower().replace("_", "-")
    assert str(folder) in message and "GGUF" in message
    assert caught.value.exit_code == 4


def test_int8_in_a_gpu_layout_is_refused(tmp_path: Path) -> None:
    case = make("bitsandbytes int8")
    tensors = {**named(case), MODULE + ".weight_format": torch.tensor(2, dtype=torch.uint8)}
    with pytest.raises(UnsupportedModelError, match="particular GPU"):
        opened(tmp_path, tensors, case.config)
