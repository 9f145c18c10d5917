"""Grok-1, which `transformers` does not have, against its computation written out here, from all its layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import UnsupportedModelError
from llmcli.kernels.cpu.support import unsupported
from tests.support.gguf.facts import tokenizer_metadata
from tests.support.gguf.writer import add
from tests.support.models.tiny import VOCABULARY, random_ids, write_text_files

IDS = random_ids(40)
LAYERS, HIDDEN, SIZE, HEADS, KEY_HEADS, EXPERTS, USED = 2, 32, 24, 4, 2, 4, 2
HEAD = HIDDEN // HEADS
EPS, SCORE_SCALE, EMBED_SCALE, LOGIT_SCALE, CAP = 1e-5, 0.5, 6.0, 0.6, 3.0
CONFIG = {
    "model_type": "grok-1",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": USED,
    "max_position_embeddings": 128,
    "hidden_act": "gelu",
    "rms_norm_eps": EPS,
    "attn_output_multiplier": SCORE_SCALE,
    "embedding_multiplier_scale": EMBED_SCALE,
    "output_multiplier_scale": LOGIT_SCALE,
    "max_attn_value": CAP,
    "tie_word_embeddings": True,
}
# In the names of the released weights.
MATRICES = {
    "multi_head_attention.query": (HIDDEN, HIDDEN),
    "multi_head_attention.key": (KEY_HEADS * HEAD, HIDDEN),
    "multi_head_attention.value": (KEY_HEADS * HEAD, HIDDEN),
    "multi_head_attention.linear": (HIDDEN, HIDDEN),
    "router": (EXPERTS, HIDDEN),
    **{f"moe.{expert}.linear": (SIZE, HIDDEN) for expert in range(EXPERTS)},
    **{f"moe.{expert}.linear_v": (SIZE, HIDDEN) for expert in range(EXPERTS)},
    **{f"moe.{expert}.linear_1": (HIDDEN, SIZE) for expert in range(EXPERTS)},
}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {"transformer.in_out_embed.weight": torch.randn(VOCABULARY, HIDDEN) * 0.15}
    for layer in range(LAYERS):
        at = f"transformer.decoder_layer.{layer}."
        made |= {f"{at}{name}.weight": torch.randn(shape) * 0.15 for name, shape in MATRICES.items()}
        norms = ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3")
        made |= {f"{at}{norm}.weight": torch.rand(HIDDEN) + 0.5 for norm in norms}
    return made | {"transformer.rms_norm.weight": torch.rand(HIDDEN) + 0.5}


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def rotated(x: Tensor) -> Tensor:
    angles = torch.arange(len(IDS))[:, None] * 1e4 ** (-torch.arange(0, HEAD, 2) / HEAD)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)


def attended(x: Tensor, of: Callable[[str], Tensor]) -> Tensor:
    parts = [x @ of(f"multi_head_attention.{name}").T for name in ("query", "key", "value")]
    q, k, v = (part.view(len(IDS), -1, HEAD).transpose(0, 1) for part in parts)
    k, v = (part.repeat_interleave(HEADS // KEY_HEADS, 0) for part in (rotated(k), v))
    scores = rotated(q) @ k.transpose(1, 2) * SCORE_SCALE
    scores = CAP * torch.tanh(scores / CAP)
    later = torch.ones(len(IDS), len(IDS), dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    return mixed.transpose(0, 1).flatten(1) @ of("multi_head_attention.linear").T


def mixture(x: Tensor, of: Callable[[str], Tensor]) -> Tensor:
    best, chosen = (x @ of("router").T).softmax(-1).topk(USED)
    best = best / best.sum(-1, keepdim=True)
    rows = []
    for token, row in enumerate(x):
        total = torch.zeros(HIDDEN)
        for weight, expert in zip(best[token], chosen[token].tolist(), strict=True):
            gate = F.gelu(of(f"moe.{expert}.linear") @ row, approximate="tanh")
            total += weight * (of(f"moe.{expert}.linear_1") @ (gate * (of(f"moe.{expert}.linear_v") @ row)))
        rows.append(total)
    return torch.stack(rows)


@pytest.fixture(scope="module")
def reference() -> Tensor:
    made = weights()
    embedding = made["transformer.in_out_embed.weight"]
    x = embedding[IDS] * EMBED_SCALE
    for layer in range(LAYERS):

        def of(name: str, layer: int = layer) -> Tensor:
            return made[f"transformer.decoder_layer.{layer}.{name}.weight"]

        x = x + normed(attended(normed(x, of("rms_norm")), of), of("rms_norm_1"))
        x = x + normed(mixture(normed(x, of("rms_norm_2")), of), of("rms_norm_3"))
    return normed(x, made["transformer.rms_norm.weight"]) @ embedding.T * LOGIT_SCALE


OTHER_NAMES = {
    "transformer.in_out_embed": "model.embed_tokens",
    "transformer.rms_norm.": "model.norm.",
    "transformer.decoder_layer": "model.layers",
    ".rms_norm_1": ".post_attn_norm",
    ".rms_norm_2": ".pre_moe_norm",
    ".rms_norm_3": ".post_moe_norm",
    ".rms_norm": ".pre_attn_norm",
    "multi_head_attention.query": "self_attn.q_proj",
    "multi_head_attention.key": "self_attn.k_proj",
    "multi_head_attention.value": "self_attn.v_proj",
    "multi_head_attention.linear": "self_attn.o_proj",
    ".router": ".block_sparse_moe.gate",
    ".moe.": ".block_sparse_moe.experts.",
    ".linear_v": ".w3",
    ".linear_1": ".w2",
    ".linear.": ".w1.",
}


def with_other_names(made: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in made.items():
        for old, new in OTHER_NAMES.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


@pytest.mark.parametrize("rename", [dict, with_other_names], ids=["released names", "names of later files"])
def test_safetensors(
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]], reference: Tensor, tmp_path: Path
) -> None:
    save_file(rename(weights()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_text_files(tmp_path)
    ours = llmcli.load(tmp_path, dtype="float32", device="cpu").logits(IDS)
    assert float((ours - reference).abs().max() / reference.abs().max()) < 2e-5
    assert unsupported(open_checkpoint(tmp_path).config) is None
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "residual_moe": True}))
    with pytest.raises(UnsupportedModelError, match="residual_moe = True"):
        open_checkpoint(tmp_path)


def write_grok_gguf(path: Path, extra: dict[str, Tensor]) -> Path:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GROK, LAYERS)
    writer = gguf.GGUFWriter(path, "grok")
    facts = {
        "context_length": 128,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": SIZE,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": EPS,
        "expert_count": EXPERTS,
        "expert_used_count": USED,
        "attention.output_scale": SCORE_SCALE,
        "embedding_scale": EMBED_SCALE,
        "logit_scale": LOGIT_SCALE,
        "attn_logit_softcapping": CAP,
        "router_logit_softcapping": 30.0,
    }
    for key, value in {**{f"grok.{key}": value for key, value in facts.items()}, **tokenizer_metadata()}.items():
        add(writer, key, value)
    made = weights()
    for layer in range(LAYERS):
        at = f"transformer.decoder_layer.{layer}.moe."
        for which in ("linear", "linear_v", "linear_1"):
            single = [made.pop(f"{at}{expert}.{which}.weight") for expert in range(EXPERTS)]
            made[f"{at}{which}.weight"] = torch.stack(single)
    for name, tensor in {**made, **extra}.items():
        writer.add_tensor(names.get_name(name, (".weight",)) or name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf(reference: Tensor, tmp_path: Path) -> None:
    ours = llmcli.load(write_grok_gguf(tmp_path / "model.gguf", {}), dtype="float32", device="cpu").logits(IDS)
    assert float((ours - reference).abs().max() / reference.abs().max()) < 2e-5
    second = write_grok_gguf(tmp_path / "second.gguf", {"blk.0.ffn_up.weight": torch.ones(SIZE, HIDDEN)})
    with pytest.raises(UnsupportedModelError, match="as Grok-2 has"):
        open_checkpoint(second)
