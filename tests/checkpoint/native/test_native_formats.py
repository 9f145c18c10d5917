"""The layouts of Mistral and Meta give the same model as Hugging Face's, bit for bit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.native.params import hf_keys
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.native_files import (
    Tensors,
    meta_params,
    mistral_params,
    native,
    write_pth,
    write_safetensors,
)
from tests.support.models.tiny import SIZES, random_ids, save, tiny_model

IDS = random_ids(40)


def logits(folder: Path) -> Tensor:
    return llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)


YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "beta": 32.0, "alpha": 1.0, "apply_scale": False}
HF_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}
SCALED = {**HF_YARN, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}

# A family, changes to its configuration, and the equivalent params.json.
MISTRAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "7B": ("mistral", {"sliding_window": 7}, {"sliding_window": 7}),
    "a window written as text": ("mistral", {"sliding_window": 7}, {"sliding_window": "7"}),
    "no window, wide heads": ("mistral", {"sliding_window": None, "head_dim": 12}, {}),
    "windows in some layers": (
        "ministral",
        {
            "sliding_window": 6,
            "head_dim": 8,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
        {"sliding_window": [None, 6, 6]},
    ),
    "tied": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}, {"tied_embeddings": True}),
    "yarn": (
        "mistral",
        {"sliding_window": None, "rope_parameters": {**HF_YARN, "attention_factor": 1.0}},
        {"yarn": YARN},
    ),
    "yarn that scales attention": (
        "mistral",
        {"sliding_window": None, "rope_parameters": HF_YARN},
        {"yarn": {key: value for key, value in YARN.items() if key != "apply_scale"}},
    ),
    "ministral 3": (
        "ministral3",
        {"head_dim": 8, "rope_parameters": {**SCALED, "llama_4_scaling_beta": 0.1}},
        {"yarn": YARN, "llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 16}},
    ),
    "mixtral": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        {"moe": {"num_experts": 4, "num_experts_per_tok": 2}},
    ),
}


@pytest.mark.parametrize("case", MISTRAL)
def test_mistral_layout_equals_hugging_face_layout(tmp_path: Path, case: str) -> None:
    family, overrides, params = MISTRAL[case]
    model = tiny_model(family, **overrides)
    expected = logits(save(model, tmp_path / "hf"))
    folder = write_safetensors(tmp_path / "native", mistral_params(model, **params), native(model))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "consolidated safetensors"
    assert not checkpoint.notes
    # Compared in full: windows and RoPE equal those of the reference.
    assert checkpoint.config.layers == open_checkpoint(tmp_path / "hf").config.layers
    assert torch.equal(logits(folder), expected)


def test_mistral_shards_beside_vision_parts(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=None)
    expected = logits(save(model, tmp_path / "hf"))
    seeing = {"vision_encoder.ln_pre.weight": torch.ones(3), "vision_language_adapter.w_in.weight": torch.ones(3)}
    params = mistral_params(model, vision_encoder={"hidden_size": 8})
    folder = write_safetensors(tmp_path / "native", params, native(model) | seeing, shards=3)
    assert torch.equal(logits(folder), expected)
    assert not open_checkpoint(folder).notes
    (folder / "consolidated-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks some of the weight files"):
        open_checkpoint(folder)


def test_mistral_layout_in_fp8(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=None)
    quantized: Tensors = {}
    decoded: Tensors = {}
    chance = torch.Generator().manual_seed(0)
    for name, tensor in native(model).items():
        if not re.search(r"\.w[qkvo123]\.", name):
            quantized[name] = decoded[name] = tensor
            continue
        module, scale = name.removesuffix("weight"), torch.rand((), generator=chance) / 100 + 0.001
        quantized[name] = (tensor / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        quantized[f"{module}qscale_weight"], quantized[f"{module}qscale_act"] = scale, torch.tensor(1.0)
        decoded[name] = quantized[name].float() * scale
    params = mistral_params(model)
    expected = logits(write_safetensors(tmp_path / "decoded", params, decoded))
    params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    assert torch.equal(logits(write_safetensors(tmp_path / "fp8", params, quantized)), expected)
    params["quantization"] = {"qformat_weight": "fp5"}
    with pytest.raises(UnsupportedModelError, match="'fp5'"):
        open_checkpoint(write_safetensors(tmp_path / "other", params, quantized))


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WIDE = {"intermediate_size": 96}
# Changes to a Llama, the equivalent params.json, and the dimension along which the embedding is split.
META: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "llama 1": ({**WIDE, "num_key_value_heads": 4, "max_position_embeddings": 2048}, {"n_kv_heads": None}, 1),
    "llama 2, grouped": (
        {"intermediate_size": 112, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
        {"ffn_dim_multiplier": 1.3},
        1,
    ),
    "llama 3": (
        {**WIDE, "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 500000.0, "vocab_size": SIZES["vocab_size"] + 1},
        0,
    ),
    "llama 3.1": (
        {
            **WIDE,
            "max_position_embeddings": 131072,
            "rope_parameters": {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
        },
        {"rope_theta": 500000.0, "use_scaled_rope": True},
        0,
    ),
    "llama 3.2, tied": (
        {
            **WIDE,
            "tie_word_embeddings": True,
            "max_position_embeddings": 131072,
            "rope_parameters": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
        },
        {"rope_theta": 500000.0, "use_scaled_rope": True, "rope_scaling_factor": 32},
        0,
    ),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("case", META)
def test_meta_layout_equals_hugging_face_layout(tmp_path: Path, case: str, shards: int) -> None:
    overrides, params, cut = META[case]
    # An even vocabulary, which can be split in two.
    model = tiny_model("llama", **{**overrides, "vocab_size": SIZES["vocab_size"] + 1})
    expected = logits(save(model, tmp_path / "hf"))
    folder = write_pth(tmp_path / "native", meta_params(model, **params), native(model), shards=shards, cut=cut)
    checkpoint, theirs = open_checkpoint(folder), open_checkpoint(tmp_path / "hf")
    assert (checkpoint.format, checkpoint.family) == ("consolidated PyTorch", "llama")
    assert checkpoint.config == theirs.config
    assert not checkpoint.notes
    assert sum(map(checkpoint.stored_bytes, checkpoint.sources)) >= sum(map(theirs.stored_bytes, theirs.sources))
    assert torch.equal(logits(folder), expected)


def test_mistral_layout_in_a_torch_file(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=7)
    expected = logits(save(model, tmp_path / "hf"))
    params = mistral_params(model, sliding_window=7)
    folder = write_pth(tmp_path / "native", params, native(model))
    assert torch.equal(logits(folder), expected)
    (folder / "params.json").write_text(json.dumps(params | {"quantization": {"qformat_weight": "fp8_e4m3"}}))
    with pytest.raises(UnsupportedModelError, match="quantized weights in PyTorch files"):
        open_checkpoint(folder)


BIG = {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "multiple_of": 256, "vocab_size": -1}
V3 = {**BIG, "n_kv_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256, "multiple_of": 1024}
SCALED_V3 = {**V3, "use_scaled_rope": True}
PUBLISHED: dict[str, tuple[dict[str, Any], int, int, float | None]] = {
    "llama 7B": ({**BIG, "norm_eps": 1e-6}, 11008, 2048, None),
    "llama 65B": ({**BIG, "dim": 8192, "n_heads": 64, "n_layers": 80}, 22016, 2048, None),
    "llama 2 7B": (BIG, 11008, 4096, None),
    "llama 2 70B": (
        {**BIG, "dim": 8192, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096, "ffn_dim_multiplier": 1.3},
        28672,
        4096,
        None,
    ),
    "code llama 7B": ({**BIG, "rope_theta": 1e6, "vocab_size": 32016}, 11008, 16384, None),
    "llama 3 8B": ({**V3, "ffn_dim_multiplier": 1.3}, 14336, 8192, None),
    "llama 3.1 8B": ({**SCALED_V3, "ffn_dim_multiplier": 1.3}, 14336, 131072, 8.0),
    "llama 3.1 405B": (
        {**SCALED_V3, "dim": 16384, "n_heads": 128, "multiple_of": 4096, "ffn_dim_multiplier": 1.2},
        53248,
        131072,
        8.0,
    ),
    "llama 3.2 1B": ({**SCALED_V3, "dim": 2048, "multiple_of": 256, "ffn_dim_multiplier": 1.5}, 8192, 131072, 32.0),
    "llama 3.2 3B": ({**SCALED_V3, "dim": 3072, "n_heads": 24, "multiple_of": 256}, 8192, 131072, 32.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_omitted_sizes_are_those_that_meta_published(name: str) -> None:
    params, size, context, factor = PUBLISHED[name]
    keys = hf_keys(ConfigKeys(params, Path("params.json")), 32000)
    assert keys.integer("intermediate_size") == size
    assert keys.integer("max_position_embeddings") == context
    assert keys.integer("vocab_size") == (32000 if params["vocab_size"] == -1 else params["vocab_size"])
    rope = keys.section("rope_parameters")
    assert (rope.number("factor") if rope else None) == factor


def test_hugging_face_files_are_preferred(tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=None)
    other = native(tiny_model("mistral", seed=1, sliding_window=None))
    folder = save(model, tmp_path)
    expected = logits(folder)
    write_pth(folder, mistral_params(model), other)
    write_safetensors(folder, mistral_params(model), other)
    assert open_checkpoint(folder).format == "safetensors"
    assert torch.equal(logits(folder), expected)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert open_checkpoint(folder).format == "consolidated safetensors"
    (folder / "consolidated.safetensors").unlink()
    assert open_checkpoint(folder).format == "PyTorch"
    assert torch.equal(logits(folder), expected)
    (folder / "pytorch_model.bin").unlink()
    assert open_checkpoint(folder).format == "consolidated PyTorch"


def reshard(folder: Path, change: Callable[[Tensors], Tensors], *indices: int) -> None:
    for index in indices:
        path = folder / f"consolidated.{index:02}.pth"
        torch.save(change(torch.load(path)), path)


def edit_params(folder: Path, **changes: Any) -> None:
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


WQ = "layers.1.attention.wq.weight"
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing file": (lambda f: (f / "consolidated.00.pth").unlink(), "lacks some of the weight files"),
    "only half of the files": (lambda f: (f / "consolidated.01.pth").unlink(), r"shape \[\d+, \d+\]"),
    "a tensor in one file only": (
        lambda f: reshard(f, without(WQ), 1),
        rf"consolidated\.01\.pth lacks the tensor '{WQ}'",
    ),
    "a tensor in no file": (
        lambda f: reshard(f, without(WQ), 0, 1),
        rf"lacks the tensor {re.escape(WQ)}, which",
    ),
    "a part of another shape": (
        lambda f: reshard(f, lambda t: t | {WQ: torch.ones(16, 31)}, 1),
        r"\[16, 31\], which does not match \[16, 32\]",
    ),
    "a vector in parts": (lambda f: reshard(f, lambda t: t | {WQ: torch.ones(16)}, 1), "does not match"),
    "a tensor more": (
        lambda f: reshard(f, lambda t: t | {"layers.0.attention.gate.weight": torch.ones(3)}, 0, 1),
        r"layers\.0\.attention\.gate\.weight, which the configuration does not describe",
    ),
    "no embedding": (
        lambda f: reshard(f, without("tok_embeddings.weight"), 0, 1),
        "no matrix tok_embeddings",
    ),
    "another size of the network": (lambda f: edit_params(f, multiple_of=64), r"feed_forward\.w1.*\[96, 32\].*128"),
    "another vocabulary": (lambda f: edit_params(f, vocab_size=77), r"tok_embeddings.*says \[77, 32\]"),
    "no width": (lambda f: edit_params(f, dim=None), r"params\.json lacks 'dim'"),
    "no size of the network": (lambda f: edit_params(f, multiple_of=None), r"params\.json lacks 'multiple_of'"),
    "text for a number": (lambda f: edit_params(f, norm_eps="small"), "'norm_eps' = 'small'"),
    "not JSON": (lambda f: (f / "params.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, what: str) -> None:
    spoil, reason = SPOILED[what]
    model = tiny_model("llama", **WIDE, vocab_size=SIZES["vocab_size"] + 1)
    folder = write_pth(tmp_path, meta_params(model), native(model), shards=2, cut=1)
    open_checkpoint(folder)
    spoil(folder)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(folder)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "recurrent layers": ({"model_type": "rwkv"}, "'rwkv'"),
    "latent attention": ({"kv_lora_rank": 512, "q_lora_rank": 1536}, "latent attention"),
    "a cap of logits": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "a rotation of another format": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    "groups of experts": (
        {"moe": {"num_experts": 4, "num_experts_per_tok": 2, "num_expert_groups": 2}},
        "moe.num_expert_groups",
    ),
    "shared experts": ({"moe": {"num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1}}, "shared"),
    "attention to later tokens": ({"causal": False}, "later tokens"),
    "experts of Llama 4": ({"moe_args": {"num_experts": 16}}, "Llama 4"),
    "layers that attend to images": ({"vision_chunk_size": 448}, "images"),
    "weights in 4 bits": ({"quantization_args": {"group_size": 256}}, "quantized"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unsupported_models_are_refused_by_name(tmp_path: Path, what: str) -> None:
    changes, reason = REFUSED[what]
    model = tiny_model("mistral", sliding_window=None)
    folder = write_safetensors(tmp_path, mistral_params(model, **changes), native(model))
    with pytest.raises(UnsupportedModelError, match=reason) as refusal:
        open_checkpoint(folder)
    assert "params.json" in str(refusal.value)


NONSENSE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    1 << 70,
    0.5,
    1e308,
    float("nan"),
    "",
    "7",
    "text",
    [],
    [0],
    [None],
    {},
)
NONSENSE += ({"factor": 1}, {"beta": 1, "original_max_position_embeddings": 4}, {"num_experts": 1 << 30}, [None, 3, 4])


@pytest.mark.parametrize("meta", [False, True])
def test_invalid_params_are_refused_with_a_message(tmp_path: Path, meta: bool) -> None:
    model = tiny_model("llama", **WIDE)
    if meta:
        params = meta_params(model, ffn_dim_multiplier=1.0, rope_theta=5e5, use_scaled_rope=True, max_seq_len=64)
        folder = write_pth(tmp_path, params, native(model))
    else:
        params = mistral_params(model, sliding_window=4, yarn=YARN, max_seq_len=64, activation="silu")
        params |= {"llama_4_scaling": None, "moe": None, "quantization": None, "tied_embeddings": False}
        folder = write_safetensors(tmp_path, params, native(model))
    open_checkpoint(folder)
    chance = random.Random(0)
    for key in params:
        for value in chance.sample(NONSENSE, 12):
            (folder / "params.json").write_text(json.dumps(params | {key: value}))
            try:
                open_checkpoint(folder)
            except CheckpointError as error:
                assert len(str(error)) < 1000
        (folder / "params.json").write_text(json.dumps({k: v for k, v in params.items() if k != key}))
        try:
            open_checkpoint(folder)
        except CheckpointError as error:
            assert str(folder) in str(error)


@pytest.mark.parametrize("configured", [False, True])
def test_weights_without_params_json_are_refused(tmp_path: Path, configured: bool) -> None:
    model = tiny_model("mistral", sliding_window=None)
    folder = write_safetensors(tmp_path, mistral_params(model), native(model))
    (folder / "params.json").unlink()
    if configured:
        (save(model, folder) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"consolidated\.safetensors, but not the params\.json"):
        open_checkpoint(folder)
