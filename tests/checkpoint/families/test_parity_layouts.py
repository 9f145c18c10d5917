"""The same models with other tensor names, packed layouts and generations of configuration keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(40)
Tensors = dict[str, Tensor]


def saved(case: str, folder: Path, **changes: Any) -> Path:
    model_type, overrides = CASES[case]
    return tiny_checkpoint(folder, model_type, **{**overrides, **changes})


def logits(folder: Path) -> Tensor:
    return llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def packed_experts(tensors: Tensors) -> Tensors:
    packed = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(3):
        stem = f"model.layers.{layer}.mlp.experts."
        if f"{stem}0.gate_proj.weight" not in tensors:
            continue
        count = sum(name.startswith(stem) and name.endswith("down_proj.weight") for name in tensors)
        each = [[tensors[f"{stem}{e}.{part}_proj.weight"] for part in ("gate", "up", "down")] for e in range(count)]
        packed[f"{stem}gate_up_proj"] = torch.stack([torch.cat(parts[:2]) for parts in each])
        packed[f"{stem}down_proj"] = torch.stack([parts[2] for parts in each])
    return packed


def mixtral_names(tensors: Tensors) -> Tensors:
    return {
        name.replace(".mlp.", ".block_sparse_moe.")
        .replace("gate_proj", "w1")
        .replace("up_proj", "w3")
        .replace("down_proj", "w2"): tensor
        for name, tensor in tensors.items()
    }


def straight_experts(tensors: Tensors) -> Tensors:
    """The layout of decoded 4-bit gpt-oss files: (out, in), rows of gate and up alternating."""
    return {
        name: tensor.mT if name.endswith(("gate_up_proj", "down_proj")) else tensor for name, tensor in tensors.items()
    }


def without_prefix(tensors: Tensors) -> Tensors:
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return bare | {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8) for layer in range(3)}


def old_buffers(tensors: Tensors) -> Tensors:
    return tensors | {
        f"gpt_neox.layers.{layer}.attention.{name}": torch.ones(4)
        for layer in range(3)
        for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    }


REWRITTEN: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "packed experts": ("qwen3-moe", packed_experts),
    "packed experts beside a shared one": ("deepseek v3", packed_experts),
    "mixtral's own names": ("mixtral", lambda t: t if any("w1" in name for name in t) else mixtral_names(t)),
    "experts as the 4-bit files have them": ("gpt-oss", straight_experts),
    "gpt-2 without a prefix": ("gpt-2", without_prefix),
    "buffers of old versions": ("pythia, parallel", old_buffers),
}


@pytest.mark.parametrize("which", REWRITTEN)
def test_other_layouts_give_the_same_logits(tmp_path: Path, which: str) -> None:
    case, change = REWRITTEN[which]
    folder = saved(case, tmp_path)
    expected = logits(folder)
    rewrite(folder, change)
    assert torch.equal(logits(folder), expected)


def test_multi_token_prediction_layers_are_left_out(tmp_path: Path) -> None:
    folder = saved("deepseek v3", tmp_path)
    expected = logits(folder)
    rewrite(folder, lambda tensors: tensors | {"model.layers.3.eh_proj.weight": torch.ones(4, 8)})
    edit_config(folder, {}, drop=("num_nextn_predict_layers",))
    with pytest.raises(CheckpointError, match=r"layers\.3\.eh_proj.*does not describe"):
        open_checkpoint(folder)
    edit_config(folder, {"num_nextn_predict_layers": 1})
    assert torch.equal(logits(folder), expected)


WRAPPED = {
    "gemma3": "gemma 3, linear on full layers",
    "mistral3": "mistral, no window, wide heads",
    "llama4": "llama 4",
}


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model.language_model.model."])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_text_model_inside_a_multimodal_model(tmp_path: Path, wrapper: str, prefix: str) -> None:
    folder = saved(WRAPPED[wrapper], tmp_path)
    expected = logits(folder)
    text = json.loads((folder / "config.json").read_text())
    config = {"model_type": wrapper, "text_config": text, "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(config))
    head = "language_model.lm_head.weight" if prefix.startswith("language_model") else "lm_head.weight"

    def wrapped(tensors: Tensors) -> Tensors:
        inside = {
            head if name == "lm_head.weight" else prefix + name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
        }
        return inside | {
            "vision_tower.encoder.weight": torch.ones(3),
            "model.vision_tower.encoder.weight": torch.ones(3),
            "multi_modal_projector.linear_1.weight": torch.ones(3),
        }

    rewrite(folder, wrapped)
    assert torch.equal(logits(folder), expected)
    assert open_checkpoint(folder).family == text["model_type"]
    assert not open_checkpoint(folder).notes


def test_a_multimodal_checkpoint_written_by_transformers(tmp_path: Path) -> None:
    import transformers

    _, overrides = CASES["gemma 3, linear on full layers"]
    text = tiny_model("gemma3_text", **overrides).config
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(tmp_path)
    write_text_files(tmp_path)
    with torch.inference_mode():
        theirs = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits(tmp_path), theirs, rtol=1e-4, atol=1e-5)


YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
# A case, the keys that only older files have, and the keys that they lack.
LEGACY: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "gemma 3": (
        "gemma 3, linear on full layers",
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 3,
        },
        ("rope_parameters", "layer_types", "_sliding_window_pattern"),
    ),
    "gemma 2": ("gemma 2", {}, ("layer_types", "rope_parameters")),
    "olmo 3": (
        "olmo 3, yarn on full layers",
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn", **YARN, "attention_factor": 1.2}},
        ("rope_parameters",),
    ),
    "phi-3, su": (
        "phi-3, longrope, long",
        {
            "rope_theta": 1e4,
            "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 5.0]},
        },
        ("rope_parameters",),
    ),
    "phi-3, yarn meaning longrope": (
        "phi-3, longrope, long",
        {
            "rope_theta": 1e4,
            "rope_scaling": {"type": "yarn", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 5.0]},
        },
        ("rope_parameters",),
    ),
    "gpt-neox": ("pythia, parallel", {"rotary_pct": 0.5, "rotary_emb_base": 10000}, ("rope_parameters",)),
    "stablelm": ("stablelm", {"rope_pct": 0.25, "rope_theta": 10000}, ("rope_parameters",)),
    "phi-2, defaults": ("phi-2", {}, ("rope_parameters", "layer_norm_eps", "hidden_act")),
    "qwen2-moe": ("qwen2-moe, windows, some layers dense", {}, ("layer_types",)),
    "qwen3-moe, other names": (
        "qwen3-moe",
        {"num_experts": 8, "rope_theta": 10000.0, "rope_scaling": None},
        ("num_local_experts", "rope_parameters"),
    ),
    "smollm 3": ("smollm 3, windows", {}, ("layer_types",)),
    "cohere, defaults": ("cohere", {}, ("rope_parameters", "logit_scale", "use_qk_norm")),
    "exaone 4": (
        "exaone 4, mixed",
        {"sliding_window_pattern": "LG"},
        ("layer_types",),
    ),
    "deepseek v3": (
        "deepseek v3",
        {
            "rope_theta": 10000,
            "rope_scaling": {
                "type": "yarn",
                **YARN,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
            },
        },
        ("rope_parameters",),
    ),
    "gpt-oss": (
        "gpt-oss",
        {
            "rope_theta": 150000,
            "rope_scaling": {"rope_type": "yarn", **YARN, "truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
        },
        ("rope_parameters", "layer_types", "swiglu_alpha", "swiglu_limit"),
    ),
    "llama 4": ("llama 4", {}, ("layer_types", "moe_layers")),
    "granite hybrid": (
        "granite hybrid, attention only",
        {"layers_block_type": ["attention"] * 3},
        ("layer_types",),
    ),
    "gpt-2": ("gpt-2", {"n_inner": None}, ("layer_norm_epsilon", "activation_function", "scale_attn_weights")),
}


@pytest.mark.parametrize("which", LEGACY)
def test_older_config_keys_mean_the_same(tmp_path: Path, which: str) -> None:
    case, changes, drop = LEGACY[which]
    folder = saved(case, tmp_path)
    expected = logits(folder)
    edit_config(folder, changes, drop=drop)
    assert torch.equal(logits(folder), expected)


def test_rope_scaling_extends_the_context(tmp_path: Path) -> None:
    folder = saved("qwen2", tmp_path)
    for scaling, expected in (
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "linear", "factor": 2.0}, 128),
    ):
        edit_config(folder, {"rope_parameters": {"rope_theta": 1e4, **scaling}})
        assert open_checkpoint(folder).config.context_length == expected


def test_bytes_of_shared_tensors_are_counted_once(tmp_path: Path) -> None:
    for case in ("phi-3, window", "pythia, parallel", "gpt-2", "granite, shared expert", "gpt-oss"):
        checkpoint = open_checkpoint(saved(case, tmp_path / case))
        total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        assert total - 100 < sum(map(checkpoint.stored_bytes, checkpoint.sources)) <= total


def test_norms_after_experts_that_layers_without_experts_do_not_use(tmp_path: Path) -> None:
    model_type, overrides = NEWER["a.x k1"]
    model = tiny_model(model_type, **overrides)
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.zero_()
    folder = save(model, tmp_path)
    expected = llmcli.load(folder, dtype="float32").logits(random_ids(20))
    stored = load_file(folder / "model.safetensors")
    # As published: all layers have the norm, and no layer a bias for the choice of experts.
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith("e_score_correction_bias")}
    stored["model.layers.0.post_mlp_layernorm.weight"] = torch.ones(32)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(llmcli.load(folder, dtype="float32").logits(random_ids(20)), expected)
