"""Unsupported models are refused by name, and invalid configurations with a message."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.registry import FAMILIES
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import SIZES, edit_config
from tests.support.models.tiny_checkpoints import tiny_checkpoint

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rwkv 6": ({"model_type": "rwkv6"}, "recurrent state"),
    "zamba": ({"model_type": "zamba2"}, "recurrent state"),
    "hybrid with one recurrent layer": (
        {"model_type": "llama", "layer_types": ["attention", "mamba", "attention"]},
        r"recurrent state of another kind \(mamba in block 1\)",
    ),
    "recurrent keys": ({"model_type": "new", "ssm_state_size": 4}, "ssm_state_size"),
    "sparse attention": ({"model_type": "minimax_m3"}, "index"),
    "encoder": ({"model_type": "t5"}, "encoder"),
    "embedding model": ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "later tokens"),
    "not causal": ({"model_type": "qwen2", "is_causal": False}, "later tokens"),
    "gemma 3n": ({"model_type": "gemma3n"}, "each layer"),
    "mixed sizes": ({"model_type": "llama", "per_layer_config": {"1": {}}}, "different sizes"),
    "own code": ({"model_type": "mine", "auto_map": {"AutoModel": "m.py"}}, "'mine'.*supported are .*llama"),
    "no type": ({}, "None.*supported are"),
    "unknown rotation": ({"rope_scaling": {"rope_type": "spiral", "factor": 2}}, "'spiral'"),
    "unknown activation": ({"hidden_act": "wave"}, "'wave'"),
    "unknown layer type": ({"layer_types": ["full_attention", "indexed", "full_attention"]}, "indexed"),
    "scaled by the layer's index": (
        {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
        "by_inverse_layer_idx",
    ),
    "another way to choose experts": (
        {"model_type": "deepseek_v2", "topk_method": "best_of_luck", "num_experts": 8},
        "best_of_luck",
    ),
}


@pytest.mark.parametrize("which", REFUSED)
def test_refusals_name_the_reason(tmp_path: Path, which: str) -> None:
    changes, reason = REFUSED[which]
    # The weights are those of a plain llama: reading them first would give another error.
    folder = tiny_checkpoint(tmp_path, "llama")
    drop = () if "model_type" in changes or which.startswith("unknown") else ("model_type",)
    edit_config(folder, changes, drop=drop)
    with pytest.raises(UnsupportedModelError, match=reason) as refusal:
        open_checkpoint(folder)
    assert refusal.value.exit_code == 4
    assert "config.json" in str(refusal.value)


# Families with the entry of another, and those that `test_multimodal_families` reads out of their wrappers.
ELSEWHERE = {
    "grok-1",
    "kimi_k2", "phi4mm", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text", "glm4v_text",
    "glm4v_moe_text",
}  # fmt: skip


def test_every_family_is_in_the_matrix() -> None:
    assert {model_type for model_type, _ in {**CASES, **NEWER, **RECURRENT}.values()} | ELSEWHERE == set(FAMILIES)


NONSENSE: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3,
    (1 << 31) - 1,
    1 << 70,
    0.5,
    1e308,
    "",
    "text",
    [],
    [0],
    ["full_attention"],
    {},
    {"rope_type": "yarn"},
    {"rope_type": "longrope", "short_factor": [0.0], "long_factor": "x"},
    {"full_attention": None, "sliding_attention": 3},
)


@pytest.mark.parametrize(
    "case",
    [
        "llama 3.1",
        "gemma 3, linear on full layers",
        "phi-4-mini, partial longrope, tied",
        "stablelm, parallel, normed heads",
        "gpt-2",
        "pythia, parallel",
        "cohere 2",
        "qwen2-moe, windows, some layers dense",
        "deepseek v3",
        "gpt-oss",
        "llama 4",
        "granite hybrid, attention only",
        "mamba",
        "nemotron 3",
        "falcon h1",
        "kimi linear",
        "qwen 3.5, experts",
        "lfm 3",
    ],
)
def test_invalid_configurations_are_refused_with_a_message(tmp_path: Path, case: str) -> None:
    model_type, overrides = {**CASES, **RECURRENT}[case]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_parameters")
    changed: list[dict[str, Any]] = []
    chance = random.Random(case)
    for key in sorted({*config, *SIZES} - {"model_type"}):
        changed += [{**config, key: value} for value in chance.sample(NONSENSE, 5)]
        changed.append({name: value for name, value in config.items() if name != key})
    for key in sorted(rope or ()):
        changed += [{**config, "rope_parameters": {**rope, key: value}} for value in chance.sample(NONSENSE, 8)]
    for keys in changed:
        (folder / "config.json").write_text(json.dumps(keys))
        try:
            open_checkpoint(folder)
        except CheckpointError as error:
            assert len(str(error)) < 2000


@pytest.mark.parametrize(
    ("case", "key"), [("mamba 2", "n_groups"), ("granite 4", "mamba_n_groups"), ("nemotron h", "n_groups")]
)
def test_groups_share_the_heads_of_mamba_2_evenly(tmp_path: Path, case: str, key: str) -> None:
    model_type, overrides = RECURRENT[case]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    edit_config(folder, {key: 3})
    with pytest.raises(CheckpointError, match="8 Mamba heads cannot be shared by 3 groups evenly"):
        open_checkpoint(folder)
