"""GGUF files whose layers have different sizes, against models of equal sizes in which the missing parts do nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.errors import CheckpointError
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cpu.support import unsupported
from llmcli.kernels.cuda.support import unsupported as unsupported_on_cuda
from llmcli.model import Heads
from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import random_ids

IDS = random_ids(40)
SIZE, USUAL = 16, Heads(4, 2, 16, 16)


def cut(linear: nn.Linear, rows: slice | Tensor = slice(None), columns: slice | Tensor = slice(None)) -> None:
    linear.weight = nn.Parameter(linear.weight[rows][:, columns].detach().clone())


def fewer_kv_heads(layers: Any, *, prune: bool) -> None:
    """Both key-value heads of layer 1 are equal: one is enough."""
    for name in ("k_proj", "v_proj"):
        linear = getattr(layers[1].self_attn, name)
        if prune:
            cut(linear, slice(SIZE))
        else:
            linear.weight[SIZE:] = linear.weight[:SIZE]


def fewer_heads(layers: Any, *, prune: bool) -> None:
    """The last two query heads of layer 2 write nothing; with them goes their key-value head."""
    attention = layers[2].self_attn
    if not prune:
        attention.o_proj.weight[:, 2 * SIZE :] = 0
        return
    cut(attention.q_proj, slice(2 * SIZE))
    cut(attention.k_proj, slice(SIZE))
    cut(attention.v_proj, slice(SIZE))
    cut(attention.o_proj, columns=slice(2 * SIZE))


def fewer_neurons(layers: Any, *, prune: bool) -> None:
    """The last neurons of layer 0 write nothing."""
    mlp = layers[0].mlp
    if not prune:
        mlp.down_proj.weight[:, 32:] = 0
        return
    cut(mlp.gate_proj, slice(32))
    cut(mlp.up_proj, slice(32))
    cut(mlp.down_proj, columns=slice(32))


def smaller_values(layers: Any, *, prune: bool) -> None:
    """Only the first half of each value head is written, in all layers."""
    kept = torch.arange(4 * SIZE).view(4, SIZE)[:, : SIZE // 2].flatten()
    for layer in layers:
        attention = layer.self_attn
        if prune:
            cut(attention.v_proj, kept[: len(kept) // 2])
            cut(attention.o_proj, columns=kept)
        else:
            unwritten = torch.ones(4 * SIZE, dtype=torch.bool)
            unwritten[kept] = False
            attention.o_proj.weight[:, unwritten] = 0


CHANGES: dict[str, tuple[Callable[..., None], dict[str, Any], list[Heads | None], str]] = {
    "key-value heads": (
        fewer_kv_heads,
        {"attention.head_count_kv": [2, 1, 2]},
        [None, Heads(4, 1, 16, 16), None],
        "layers.heads",
    ),
    "heads": (
        fewer_heads,
        {"attention.head_count": [4, 4, 2], "attention.head_count_kv": [2, 2, 1]},
        [None, None, Heads(2, 1, 16, 16)],
        "layers.heads",
    ),
    "feed-forward widths": (
        fewer_neurons,
        {"feed_forward_length": [32, 48, 48]},
        [None] * 3,
        "layers.intermediate_size",
    ),
    "values": (smaller_values, {"attention.value_length": 8}, [Heads(4, 2, 16, 8)] * 3, "layers.heads"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_layers_of_different_sizes_give_the_same_logits(what: str, tmp_path: Path) -> None:
    change, keys, heads, field = CHANGES[what]
    model = made("qwen3", head_dim=SIZE)
    with torch.no_grad():
        change(model.model.layers, prune=False)
        expected = model(torch.tensor([IDS])).logits[0]
        pruned = copy.deepcopy(model)
        change(pruned.model.layers, prune=True)
    path = write_gguf(pruned, tmp_path / "model.gguf", changes={f"qwen3.{key}": value for key, value in keys.items()})
    loaded = llmcli.load(path, dtype="float32", device="cpu")
    config = loaded.config
    assert [layer.heads for layer in config.layers] == heads
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    # The Triton kernels name what they do not compute.
    assert unsupported(config) is None and field in (unsupported_on_cuda(config) or "")
    assert float((loaded.logits(IDS) - expected).abs().max() / expected.abs().max()) < 2e-5
    step = CpuStep(loaded.model, threads=2)
    cache, other = (loaded.model.new_cache(capacity=4) for _ in range(2))
    for start, stop in ((0, 16), (16, 30), (30, 31), (31, 40)):
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([IDS[start:stop]]), cache)[0]
        for found in (logits, step.forward(IDS[start:stop], other, only_last=False)):
            assert float((found - expected[start:stop]).abs().max() / expected.abs().max()) < 2e-5
    events = Engine(loaded.model, loaded.tokenizer).stream(IDS, SamplingParams(temperature=0, max_tokens=5))
    written = [event.id for event in events if isinstance(event, Step)]
    assert written[0] == int(expected[-1, : loaded.tokenizer.vocab_size].argmax())


def test_the_cache_takes_what_each_layer_needs(tmp_path: Path) -> None:
    change, keys, _, _ = CHANGES["key-value heads"]
    model = made("qwen3", head_dim=SIZE)
    with torch.no_grad():
        change(model.model.layers, prune=True)
    path = write_gguf(model, tmp_path / "model.gguf", changes={f"qwen3.{key}": value for key, value in keys.items()})
    config = open_checkpoint(path).config
    assert config.kv_bytes_per_token(2) == (2 + 1 + 2) * 2 * SIZE * 2
    assert config.kv_bytes(10, 2) == 10 * config.kv_bytes_per_token(2)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("attention.head_count_kv", [2, 3, 2], "4 attention heads cannot share 3 key-value heads"),
        ("attention.head_count", [4, 4], "one whole number from 1 for each of 3 layers"),
        ("feed_forward_length", [48, -1, 48], "one whole number from 0 for each of 3 layers"),
    ],
)
def test_impossible_lists_are_refused(key: str, value: list[int], words: str, tmp_path: Path) -> None:
    path = write_gguf(made("qwen3"), tmp_path / "model.gguf", changes={f"qwen3.{key}": value})
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)
