"""Families beyond those that span all options: each once against `transformers`, with and without the C kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cpu.support import unsupported
from tests.support.kernels.cpu_step import library
from tests.support.models.newer_cases import EAGER_IS_WRONG, NEWER, NO_KERNEL
from tests.support.models.tiny import edit_config, random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(50)
# A first chunk, single tokens, and a chunk longer than any window.
PIECES = ((0, 9), (9, 10), (10, 11), (11, 40), (40, 41), (41, 50))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("case", NEWER)
def test_logits_and_greedy_tokens_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    model_type, overrides = NEWER[case]
    model = tiny_model(model_type, **overrides)
    if case in EAGER_IS_WRONG:
        model.config._attn_implementation = "sdpa"
    loaded = llmcli.load(save(model, tmp_path), dtype="float32", device="cpu")
    engine = Engine(loaded.model, loaded.tokenizer)
    events = engine.stream(IDS[:35], SamplingParams(temperature=0, max_tokens=40))
    replied = [event.id for event in events if isinstance(event, Step)]
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
        after_reply = model(torch.tensor([IDS[:35] + replied])).logits[0, :, : loaded.tokenizer.vocab_size]
    assert relative_error(loaded.logits(IDS), reference) < 2e-5
    cache = loaded.model.new_cache(capacity=4, rewind=5, room=3)
    cache.expected_length = len(IDS)
    with torch.inference_mode():
        parts = [loaded.model(torch.tensor([IDS[start:stop]]), cache)[0] for start, stop in PIECES]
    assert relative_error(torch.cat(parts), reference) < 2e-5
    assert after_reply.argmax(-1)[34:-1].tolist() == replied

    reason = unsupported(loaded.config)
    assert (reason is not None) == (case in NO_KERNEL)
    if reason is None:
        step = CpuStep(loaded.model, threads=2, library=library())
        cache = loaded.model.new_cache(capacity=4)
        cache.expected_length = len(IDS)
        parts = [step.forward(IDS[start:stop], cache, only_last=False) for start, stop in PIECES]
        assert relative_error(torch.cat(parts), reference) < 2e-5


# Forms of published files that differ from what the configuration classes write: a case, changes, and keys left out.
PUBLISHED: dict[str, tuple[str, dict[str, object], tuple[str, ...]]] = {
    "glm 4.5": (
        "glm 4.5",
        {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "rope_scaling": None},
        ("rope_parameters",),
    ),
    "glm 4.7 flash": (
        "glm 4.7 flash",
        {"rope_theta": 1e4, "partial_rotary_factor": 1.0, "first_k_dense_replace": 1, "topk_method": "noaux_tc"},
        ("rope_parameters", "mlp_layer_types"),
    ),
    "minimax m2": ("minimax m2", {"rope_theta": 5e6, "scoring_func": "sigmoid"}, ("rope_parameters",)),
    "exaone 3.5": (
        "exaone 3.5",
        {"num_layers": 3, "layer_norm_epsilon": 3e-4, "activation_function": "silu", "rope_theta": 5e5},
        ("num_hidden_layers", "rms_norm_eps", "hidden_act", "rope_parameters"),
    ),
    "internlm 3": (
        "internlm 3",
        {"qkv_bias": True, "bias": True, "rope_theta": 1e4},
        ("attention_bias", "mlp_bias", "rope_parameters"),
    ),
    "ernie 4.5, experts": ("ernie 4.5, experts", {"moe_layer_end_index": -1, "rope_theta": 5e5}, ("rope_parameters",)),
    "minicpm 3": (
        "minicpm 3",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.0, 3.0]}}
        | {"original_max_position_embeddings": 24, "rope_theta": 1e4},
        ("rope_parameters",),
    ),
    "sarvam, latent": (
        "sarvam, latent",
        {"rope_theta": 1e4, "num_experts": 8, "num_shared_experts": 1, "head_dim": 12},
        ("rope_parameters", "n_routed_experts", "n_shared_experts"),
    ),
    "dots 1": ("dots 1", {"rope_theta": 1e4, "scoring_func": "sigmoid"}, ("rope_parameters",)),
    "hy 3": ("hy 3", {"rope_theta": 11158840.0}, ("rope_parameters", "mlp_layer_types")),
    "k-exaone": (
        "k-exaone",
        {"sliding_window_pattern": "LGL", "rope_theta": 1e4, "first_k_dense_replace": 1},
        ("layer_types", "mlp_layer_types", "rope_parameters"),
    ),
    "cwm": (
        "cwm",
        {
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
            | {"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        },
        ("rope_parameters",),
    ),
    "mimo v2": (
        "mimo v2",
        {
            "hybrid_layer_pattern": [1, 0, 1],
            "moe_layer_freq": [0, 1, 1],
            "sliding_window_size": 5,
            "layernorm_epsilon": 3e-4,
            "rope_theta": 5e6,
            "swa_rope_theta": 1e4,
            "partial_rotary_factor": 0.334,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_head_dim": 12,
            "swa_v_head_dim": 8,
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "n_shared_experts": None,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        },
        ("layer_types", "mlp_layer_types", "rope_parameters", "rms_norm_eps", "sliding_window"),
    ),
    "glm 5": ("glm 5", {"index_topk_pattern": "FSF", "rope_theta": 1e4}, ("indexer_types", "rope_parameters")),
    "ettin": (
        "ettin",
        {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 1e4},
        ("layer_types", "sliding_window", "rope_parameters"),
    ),
    "gpt-neo": ("gpt-neo", {}, ("attention_layers",)),
    "gpt-j": ("gpt-j", {"n_ctx": 128, "rotary": True}, ("rope_parameters",)),
    "falcon 7b": ("falcon 7b", {"rope_theta": 1e4}, ("rope_parameters", "num_kv_heads")),
    "falcon 40b": ("falcon 40b", {"n_layer": 3, "n_head": 4, "num_hidden_layers": 3}, ("rope_parameters",)),
    "dbrx": ("dbrx", {}, ("rope_parameters",)),
    "bloom": ("bloom", {"n_embed": 32}, ("hidden_size",)),
    "vaultgemma": ("vaultgemma", {"rope_theta": 1e4}, ("rope_parameters", "layer_types")),
}


@pytest.mark.parametrize("which", PUBLISHED)
def test_published_forms_of_the_configuration_mean_the_same(which: str, tmp_path: Path) -> None:
    case, changes, drop = PUBLISHED[which]
    model_type, overrides = NEWER[case]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    edit_config(folder, changes, drop=drop)
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), expected)


def test_weights_of_an_index_stay_in_float32_when_others_are_rounded(tmp_path: Path) -> None:
    model_type, overrides = NEWER["deepseek v3.2"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    exact = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    rounded = llmcli.load(folder, quantize="int8", device="cpu")
    parts = dict(rounded.model.named_parameters())
    assert parts["layers.0.self_attn.indexer.weight_proj.weight"].dtype == torch.float32
    # A token for which rounding chooses another key or expert has other logits; most have none.
    assert float((rounded.logits(IDS) - exact).abs().median() / exact.abs().max()) < 0.05


def test_adapters_for_images_and_sound_are_left_out(tmp_path: Path) -> None:
    model_type, overrides = NEWER["phi-4 multimodal"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    expected = llmcli.load(folder, dtype="float32", device="cpu").logits(IDS)
    weights = folder / "model.safetensors"
    published: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(weights).items():
        module = name.removesuffix(".weight")
        if module.endswith("_proj") and ".layers." in name and "embed_tokens_extend" not in name:
            published[f"{module}.base_layer.weight"] = tensor
            published[f"{module}.lora_A.vision.weight"] = torch.ones(2, tensor.shape[1])
            published[f"{module}.lora_B.speech.weight"] = torch.ones(tensor.shape[0], 2)
        else:
            published[name] = tensor
    save_file(published, weights, metadata={"format": "pt"})
    edit_config(folder, {"model_type": "phi4mm"})
    assert torch.equal(llmcli.load(folder, dtype="float32", device="cpu").logits(IDS), expected)
