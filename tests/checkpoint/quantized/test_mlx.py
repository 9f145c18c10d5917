"""Folders that MLX quantized: packing order, settings of single modules, names, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.huggingface.stacked_experts import stack_of, without_stacks
from llmcli.checkpoint.quantized.base import QuantizedTensor
from llmcli.checkpoint.quantized.detect import collapse_quantized
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.model.quantized.matrix import QuantizedEmbedding, QuantizedLinear
from tests.support.gguf.families import made
from tests.support.models.safetensors_folder import read_safetensors_folder
from tests.support.models.tiny import edit_config, random_ids, save
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.quantized.cases import Case, make, mlx, mlx_floats
from tests.support.quantized.mlx_folder import as_mlx
from tests.support.quantized.models import MODULE, named, opened

# One row of 32 numbers, quantized by mlx.core.quantize (version 0.32.4): words, scale, bias, and the sum of the errors
# of MLX's own decoder.
ROW = torch.tensor([((k * 37 + 11) % 64 - 30) / 16 for k in range(32)])
AFFINE = {
    1: ("5aad546a", 3.8125, -1.875, 28.75),
    2: ("37de8937ee8d77e2", -0.96875, 1.9375, 9.28125),
    3: ("56c1cf297639fcae869f53f0", -0.484375, 1.9375, 4.25),
    4: ("3d1af8c5a3704e2bf9d6b4815f3c0ae7", -0.2421875, 1.9375, 1.8828125),
    5: ("fa54f1bac26502c7d325f2337daa807e654383e3", -0.12109375, 1.9375, 1.0546875),
    6: ("74930edf5ec58a0970b8d41ee39fd58e4a80bc252f67d0e5", -0.060546875, 1.9375, 0.46484375),
    8: (
        "d237a80d7eef54c52a9b0071e247b91d8fff65d63bac1182f358c92e9f0475e7",
        -0.01490020751953125,
        1.9375,
        0.12520599365234375,
    ),
}
# Words, scales, and the largest error of MLX's own decoder.
FLOATS = {
    "mxfp4": ("4c5ad0c395163d5be9c2a4052d4c6ad1", "7e", 0.25),
    "nvfp4": ("6e7cf0d4a6275e6df9e3c5074f6d7be1", "2a2a", 0.25),
    "mxfp8": ("f271e97650f56bf072e47860f46eed74dcf766f270ea7600f66af072e6775cf4", "78", 0.0625),
}


def words(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8).view(torch.uint32)[None]


def read(tensor: StoredTensor) -> Tensor:
    with TensorReader() as reader:
        return tensor.read_rows(reader, 0, tensor.shape[0]).view(tensor.shape)


def settings(bits: int = 4, group: int = 32, **more: Any) -> dict[str, Any]:
    return {"group_size": group, "bits": bits, "mode": "affine", **more}


@pytest.mark.parametrize("bits", AFFINE)
def test_words_of_mlx_decode_as_in_mlx(bits: int, tmp_path: Path) -> None:
    packed, scale, bias, error = AFFINE[bits]
    tensors = {"a.weight": words(packed), "a.scales": torch.tensor([[scale]]), "a.biases": torch.tensor([[bias]])}
    weight = opened(tmp_path, tensors, settings(bits))["a.weight"]
    assert (weight.encoding, weight.shape) == (f"MLX {bits}-bit", (1, 32))
    assert float((read(weight)[0] - ROW).abs().double().sum()) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("mode", FLOATS)
def test_floats_of_mlx_decode_as_in_mlx(mode: str, tmp_path: Path) -> None:
    packed, scales, error = FLOATS[mode]
    scale = torch.tensor([list(bytes.fromhex(scales))], dtype=torch.uint8)
    weight = opened(tmp_path, {"a.weight": words(packed), "a.scales": scale}, {**settings(), "mode": mode})["a.weight"]
    assert weight.encoding == mode.upper()
    assert float((read(weight)[0] - ROW).abs().max()) == error


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_groups_of_every_size(bits: int, group: int, tmp_path: Path) -> None:
    case = mlx(16, 256, torch.Generator().manual_seed(0), bits=bits, group=group)
    weight = opened(tmp_path, named(case), case.config)[MODULE + ".weight"]
    assert torch.equal(read(weight), case.weight)
    assert isinstance(weight, QuantizedTensor) and (weight.groups is not None) == (bits <= 4)


def test_settings_come_before_those_of_the_model_that_was_quantized(tmp_path: Path) -> None:
    case = make("mlx 4 bits")
    save_file(named(case), tmp_path / "model.safetensors")
    keys = {"quantization": settings(), "quantization_config": {"quant_method": "fp8"}}
    found = collapse_quantized(read_safetensors_folder(tmp_path), ConfigKeys(keys, tmp_path / "config.json"), tmp_path)
    assert torch.equal(read(found[MODULE + ".weight"]), case.weight)


def test_modules_may_have_settings_of_their_own(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    parts = {
        "a": mlx(32, 128, rng, bits=4),
        "b": mlx(32, 128, rng, bits=8, group=64),
        "c": mlx_floats(32, 128, rng, mode="mxfp4"),
        "d": mlx(32, 128, rng, bits=6, group=128),
    }
    tensors = {name: tensor for module, case in parts.items() for name, tensor in named(case, module).items()}
    tensors["e.weight"] = torch.ones(4, 4)
    # `d` is not named: its shapes show that the general settings are not its own.
    own: dict[str, Any] = {
        "b": {"group_size": 64, "bits": 8},
        "c": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        "e": False,
    }
    found = opened(tmp_path, tensors, settings(**own, a=True))
    assert isinstance(found["e.weight"], TensorInfo)
    for module, case in parts.items():
        assert torch.equal(read(found[module + ".weight"]), case.weight), module


def stacked(cases: list[Case], module: str) -> dict[str, Tensor]:
    return {module + part: torch.stack([case.tensors[part] for case in cases]) for part in cases[0].tensors}


def test_stacks_of_experts_become_single_ones(tmp_path: Path) -> None:
    stack = "model.layers.0.mlp.switch_mlp.up_proj"
    cases = [make("mlx 6 bits", seed=seed) for seed in range(3)]
    tensors = {**stacked(cases, stack), stack + ".bias": torch.arange(6.0).view(3, 2), "odd.up_proj.weight": ROW[None]}
    save_file(tensors, tmp_path / "model.safetensors")
    keys = ConfigKeys({"quantization": {**settings(), stack: {"group_size": 32, "bits": 6}}}, tmp_path / "config.json")
    found = collapse_quantized(without_stacks(read_safetensors_folder(tmp_path)), keys, tmp_path)
    names = [f"model.layers.0.mlp.switch_mlp.{expert}.up_proj" for expert in range(3)]
    assert set(found) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")} | {"odd.up_proj.weight"}
    for expert, name in enumerate(names):
        assert stack_of(name) == stack
        assert torch.equal(read(found[name + ".weight"]), cases[expert].weight)
        assert read(found[name + ".bias"]).tolist() == [2 * expert, 2 * expert + 1]


def test_experts_may_have_a_scale_for_all_their_values(tmp_path: Path) -> None:
    cases = [mlx_floats(32, 64, torch.Generator().manual_seed(seed), mode="nvfp4") for seed in range(2)]
    tensors = {
        **stacked(cases, "mlp.switch_mlp.up_proj"),
        "mlp.switch_mlp.up_proj.global_scale": torch.tensor([5.0, 3]),
    }
    save_file({f"a.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    keys = ConfigKeys({"quantization": {**settings(group=16), "mode": "nvfp4"}}, tmp_path / "config.json")
    found = collapse_quantized(without_stacks(read_safetensors_folder(tmp_path)), keys, tmp_path)
    for expert, (case, factor) in enumerate(zip(cases, (5.0, 3.0), strict=True)):
        weight = read(found[f"a.mlp.switch_mlp.{expert}.up_proj.weight"])
        torch.testing.assert_close(weight, case.weight * factor / (6 * 448))


def test_a_stack_of_billions_is_left_alone(tmp_path: Path) -> None:
    info = TensorInfo("a.switch_mlp.up_proj.weight", (1 << 40, 0, 1), "U32", tmp_path, 0, 0)
    assert without_stacks({info.name: info}) == {info.name: info}


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4},
    "mixtral": {"num_local_experts": 4},
    "deepseek_v3": {
        "moe_intermediate_size": 32, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        "kv_lora_rank": 32, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_equal_those_of_the_decoded_values(family: str, tmp_path: Path) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "mlx"
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, **FAMILIES[family]}
    tiny_checkpoint(plain, family, **sizes)
    # Routers have more bits, without an entry of their own, and one matrix stays dense.
    as_mlx(
        plain,
        folder,
        lambda name: None if "o_proj" in name else 8 if name.endswith("gate.weight") else 4,
        torch.bfloat16,
        (4, 32, 16),
    )
    names = set(load_file(folder / "model.safetensors"))
    assert "model.embed_tokens.scales" in names
    assert any("switch_mlp" in name for name in names) == (family != "llama")
    assert any("embed_q.scales" in name for name in names) == (family == "deepseek_v3")
    ids = random_ids(12)
    expected = llmcli.load(plain, dtype="float32", device="cpu").logits(ids)
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(ids), expected)
    packed = llmcli.load(folder, device="cpu")
    if packed.packing is None:
        return
    assert isinstance(packed.model.embed_tokens, QuantizedEmbedding)
    assert isinstance(packed.model.layers[0].get_submodule("self_attn.q_proj"), QuantizedLinear)
    assert isinstance(packed.model.layers[0].get_submodule("self_attn.o_proj"), torch.nn.Linear)
    alike = torch.nn.functional.cosine_similarity(packed.logits(ids).float(), expected, dim=-1)
    assert alike.min() > 0.995


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_families_that_mlx_renames(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, family, num_hidden_layers=1)
    ids = random_ids(12)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(ids)
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        new = "model." + name.removeprefix("transformer.").replace("gpt_neox.layers.", "h.").removeprefix("gpt_neox.")
        straight = family == "gpt2" and tensor.ndim == 2 and ".h." in new
        renamed[new] = (tensor.T if straight else tensor).contiguous().clone()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "mlx"})
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(ids), expected)


def test_experts_of_gemma_4_in_stacks_of_mlx(tmp_path: Path) -> None:
    folder = save(made("gemma 4, experts"), tmp_path / "model")
    ids = random_ids(12)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(ids)
    renamed: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem = name.removesuffix("gate_up_proj").removesuffix("down_proj") + "switch_glu."
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, 1)
            renamed |= {f"{stem}gate_proj.weight": gate.contiguous(), f"{stem}up_proj.weight": up.contiguous()}
        else:
            renamed[f"{stem}down_proj.weight" if name.endswith("experts.down_proj") else name] = tensor.clone()
    assert sum("switch_glu" in name for name in renamed) == 9
    save_file(renamed, folder / "model.safetensors", metadata={"format": "mlx"})
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(ids), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packed_values_are_those_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    case = mlx(32, 128, torch.Generator().manual_seed(0), bits=4, group=64, scale=dtype)
    weight = opened(tmp_path, named(case), case.config)[MODULE + ".weight"]
    assert isinstance(weight, QuantizedTensor) and weight.groups is not None
    with TensorReader() as reader:
        assert torch.equal(weight.groups(reader, 0, 32).values(), case.weight)


@pytest.mark.parametrize("name", ["mlx 4 bits", "mlx mxfp4"])
def test_numbers_too_large_for_packed_weights_are_refused(name: str, tmp_path: Path) -> None:
    case = make(name)
    case.tensors[".scales"] = case.tensors[".scales"].clone()
    if name == "mlx mxfp4":
        case.tensors[".scales"][3, 1] = 200
    else:
        case.tensors[".scales"] = case.tensors[".scales"].bfloat16()
        case.tensors[".scales"][3, 1] = 1e30
    weight = opened(tmp_path, named(case), case.config)[MODULE + ".weight"]
    assert isinstance(weight, QuantizedTensor) and weight.groups is not None
    with TensorReader() as reader, pytest.raises(CheckpointError, match=r"up_proj.scales.*--dtype bfloat16"):
        weight.groups(reader, 0, 16)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bits": (settings(7), "MLX with 7 bits, which is not supported"),
    "group": (settings(4, 48), "MLX in groups of 48"),
    "mode": ({**settings(), "mode": "affine2"}, "MLX in the mode 'affine2'"),
    "bits of a module": ({**settings(), MODULE: {"bits": 9, "group_size": 32}}, "MLX with 9 bits"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unknown_settings_are_refused_by_name(what: str, tmp_path: Path) -> None:
    config, words = REFUSED[what]
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        opened(tmp_path, named(make("mlx 4 bits")), config)
    assert str(tmp_path / "config.json") in str(caught.value) and caught.value.exit_code == 4


def test_a_module_that_is_not_quantized_must_not_have_scales(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'model.layers.0.mlp.up_proj' is not quantized, but .*up_proj.scales"):
        opened(tmp_path, named(make("mlx 4 bits")), {**settings(), MODULE: False})


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_damaged_folder_is_refused_in_a_sentence_with_file_and_tensor(part: str, damage: str, tmp_path: Path) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "mlx"
    tiny_checkpoint(plain, "llama", hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    as_mlx(plain, folder, lambda name: 4, torch.float16, (1, 1, 1))
    stored = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    broken = stored.pop(f"model.layers.0.mlp.up_proj.{part}")
    if damage == "shorter":
        stored[f"model.layers.0.mlp.up_proj.{part}"] = broken[:, :1].contiguous()
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "model.layers.0.mlp.up_proj." in message and str(folder) in message
    assert message.isprintable() and message.endswith(".") and caught.value.exit_code == 4


def test_the_settings_are_also_found_under_the_usual_key(tmp_path: Path) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "mlx"
    tiny_checkpoint(plain, "llama", hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    as_mlx(plain, folder, lambda name: 4, torch.float16, (1, 1, 1))
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, {"quantization_config": config["quantization"], "quantization": None})
    assert open_checkpoint(folder).tensors["lm_head.weight"].encoding == "MLX 4-bit"
