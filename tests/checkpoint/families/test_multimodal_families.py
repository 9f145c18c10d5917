"""Text models inside multimodal ones, as `transformers` writes them: without images and sound they give its logits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from tests.support.models.newer_cases import EXPERTS, LATENT, ROUTED, WINDOWS
from tests.support.models.recurrent_cases import CONV, DELTA, RECURRENT
from tests.support.models.tiny import SIZES, random_ids, save
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(50)
# Names of sizes differ from class to class; each reads those that it knows.
TOWER: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 1,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "out_hidden_size": 32,
    "embed_dim": 16,
    "image_size": 28,
    "patch_size": 14,
}
SMALL_TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1
}  # fmt: skip
AXES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
LATENT_EXPERTS = {**LATENT, **ROUTED}

QUARTER = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
QUARTER_AXES = {**QUARTER, "mrope_section": [1, 1, 0], "mrope_interleaved": True}

CASES: dict[str, dict[str, Any]] = {
    "qwen3_5": {**DELTA, "rope_parameters": QUARTER_AXES},
    "qwen3_5_moe": {**DELTA, **EXPERTS, "num_experts": 6, "shared_expert_intermediate_size": 20}
    | {"rope_parameters": QUARTER_AXES},
    "qwen4_exp": {**RECURRENT["qwen 4"][1], "rope_parameters": QUARTER_AXES},
    "lfm2_vl": {**CONV, "block_multiple_of": 24},
    "lfm3_vl": {**CONV, "head_dim": 8, "sliding_window": 6},
    "qwen2_vl": {"rope_parameters": AXES},
    "qwen2_5_vl": {"rope_parameters": AXES, "tie_word_embeddings": True},
    "qwen3_vl": {"head_dim": 8, "rope_parameters": AXES},
    "qwen3_vl_moe": {"head_dim": 8, "num_experts": 6, **EXPERTS, "rope_parameters": AXES},
    "glm4v": {"rope_parameters": {**AXES, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}},
    "glm4v_moe": {**ROUTED, "head_dim": 16, "rope_parameters": AXES},
    "internvl": {"model_type": "qwen3", "head_dim": 8},
    "cohere_compass": {**WINDOWS, "rope_parameters": {"sliding_attention": AXES, "full_attention": None}},
    "aria": {"moe_num_experts": 4, "moe_topk": 2},
    "exaone4_5": {"model_type": "exaone4", **WINDOWS},
    "kimi_k25": {"model_type": "deepseek_v3", **LATENT_EXPERTS},
    "fuyu": {"model_type": "persimmon"},
    "voxtral": {"model_type": "llama", "head_dim": 8},
    "mistral3": {"model_type": "mistral4", **LATENT_EXPERTS},
    "mllama": {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
}


def multimodal_model(wrapper: str, text: dict[str, Any]) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )

    parts: dict[str, Any] = {"text_config": copy.deepcopy({**SIZES, **text}), "vision_config": dict(TOWER)}
    if wrapper == "internvl":
        parts["vision_config"] = {**SMALL_TOWER, "image_size": [28, 28], "patch_size": [14, 14]}
    if wrapper == "voxtral":
        parts = {"text_config": parts["text_config"], "audio_config": dict(SMALL_TOWER)}
    config = transformers.AutoConfig.for_model(wrapper, **parts)
    torch.manual_seed(0)
    models = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    made = models or MODEL_FOR_MULTIMODAL_LM_MAPPING[type(config)]
    model = made._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.15)
    return model


@pytest.mark.parametrize("wrapper", CASES)
def test_text_alone_gives_the_logits_of_transformers(wrapper: str, tmp_path: Path) -> None:
    model = multimodal_model(wrapper, CASES[wrapper])
    folder = save(model, tmp_path)
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([IDS])).logits[0]
    ours = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-5
    assert not open_checkpoint(folder).notes


def test_nemotron_with_images_keeps_its_text_model_under_other_names(tmp_path: Path) -> None:
    model_type, overrides = RECURRENT["nemotron h"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    config = json.loads((folder / "config.json").read_text())
    published = {"model_type": "NemotronH_Nano_VL_V2", "llm_config": config, "vision_config": TOWER}
    (folder / "config.json").write_text(json.dumps(published))
    weights = folder / "model.safetensors"
    tensors = {f"language_model.{name}": tensor for name, tensor in load_file(weights).items()}
    for part in (
        "mlp1.0.weight",
        "vision_model.radio_model.model.norm.weight",
        "sound_projection.norm.weight",
    ):
        tensors[part] = torch.ones(4)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), expected)
    assert not open_checkpoint(folder).notes


def test_older_files_of_qwen_have_the_keys_of_text_at_top_level(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "qwen2")
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    config = json.loads((folder / "config.json").read_text())
    rope = {"type": "mrope", "mrope_section": [1, 1, 2]}
    older = {"model_type": "qwen2_5_vl", "vision_config": TOWER, "rope_scaling": rope, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps({**config, **older, "rope_parameters": None}))
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), expected)
