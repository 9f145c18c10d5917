from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import llmcli
from llmcli.errors import UsageError
from llmcli.inspection.evaluation.cost import keys_read, keys_seen, model_cost
from llmcli.model import ExpertsConfig, KVCache, LatentConfig, LayerConfig, ModelConfig
from tests.support.models.parity_cases import CASES
from tests.support.models.published_sizes import LLAMA3_8B, MIXTRAL_8X7B, SMOLLM2, config
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint


def test_a_tied_head_is_counted_once_but_computed() -> None:
    cost = model_cost("SmolLM2", SMOLLM2)
    boxes = {box.box: box for box in cost.boxes}
    assert cost.parameters == 134_515_008
    assert (boxes["embeddings"].parameters, boxes["output_head"].parameters) == (28_311_552, 0)
    assert boxes["output_head"].flops_per_token == 2 * 28_311_552
    assert (cost.blocks[0].attention, cost.blocks[0].feed_forward) == (884_736, 2_654_208)
    assert sum(block.attention + block.feed_forward for block in cost.blocks) == (
        boxes["attention"].parameters + boxes["feed_forward"].parameters
    )


@pytest.mark.parametrize(
    ("sizes", "parameters", "active", "kv", "ungrouped"),
    [
        (SMOLLM2, 134_515_008, 134_515_008, 23_040, 69_120),
        (LLAMA3_8B, 8_030_261_248, 8_030_261_248, 131_072, 524_288),
        (MIXTRAL_8X7B, 46_702_792_704, 12_879_925_248, 131_072, 524_288),
    ],
    ids=["SmolLM2-135M", "Llama-3-8B", "Mixtral-8x7B"],
)
def test_costs_of_published_models(sizes: ModelConfig, parameters: int, active: int, kv: int, ungrouped: int) -> None:
    cost = model_cost("x", sizes)
    assert (cost.parameters, cost.active) == (parameters, active)
    assert (cost.kv_bytes_per_token, cost.kv_bytes_per_token_ungrouped) == (kv, ungrouped)
    full = cost.lengths[-1]
    assert (full.tokens, full.origin) == (sizes.context_length, "context")
    assert (full.kv_bytes, full.kv_bytes_ungrouped) == (kv * full.tokens, ungrouped * full.tokens)


def test_the_latent_cache_of_deepseek_v3_has_its_published_size() -> None:
    """70.272 KB a token (arXiv:2505.09343, table 1); whole, its 128 heads would have 192 + 128 values each."""
    latent = LatentConfig(query_rank=8, rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    cost = model_cost("x", config(61, num_heads=128, num_kv_heads=128, latent=latent))
    assert (cost.kv_bytes_per_token, cost.kv_bytes_per_token_ungrouped) == (70_272, 2 * 61 * 128 * (192 + 128))
    assert cost.latent


@pytest.mark.parametrize(
    "case",
    [
        "llama 3.2, tied", "llama, biases, wide heads", "mistral, window shorter than the text", "gemma 2", "gpt-2",
        "cohere, normed heads", "gpt-oss", "qwen2-moe", "deepseek v3", "deepseek v2 lite", "llama 4",
    ],
)  # fmt: skip
def test_flops_equal_those_that_torch_counts(case: str, tmp_path: Path) -> None:
    model_type, overrides = CASES[case]
    loaded = llmcli.load(tiny_checkpoint(tmp_path / "m", model_type, **overrides), dtype="float32", device="cpu")
    tokens = 12
    cost = model_cost("x", loaded.config, context=tokens)
    length = next(length for length in cost.lengths if length.tokens == tokens)
    head = next(box.flops_per_token for box in cost.boxes if box.box == "output_head")
    cache, counted = loaded.model.new_cache(), []
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        for token in random_ids(tokens):
            with FlopCounterMode(display=False) as counter:
                loaded.model(torch.tensor([[token]]), cache)
            counted.append(counter.get_total_flops())
    assert counted[-1] == length.flops_of_last
    # Reading a text computes logits for its last token alone.
    assert sum(counted) - (tokens - 1) * head == length.flops_to_read
    assert length.attention_share == pytest.approx(1 - cost.flops_per_token / counted[-1])


def test_only_chosen_experts_are_computed() -> None:
    def flops(count: int, chosen: int) -> int:
        cost = model_cost("x", config(1, LayerConfig(None, experts=ExpertsConfig(count, chosen, 16))))
        return next(box.flops_per_token for box in cost.boxes if box.box == "feed_forward")

    router = 2 * 32
    one = 2 * 3 * 32 * 16
    assert flops(8, 2) == 8 * router + 2 * one
    assert flops(64, 2) == 64 * router + 2 * one
    assert flops(8, 5) == 8 * router + 5 * one


@pytest.mark.parametrize("latent", [None, LatentConfig(None, 16, 8, 4, 6)])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_cache_bytes_equal_those_of_a_real_cache(latent: LatentConfig | None, tokens: int) -> None:
    sizes = config(3, latent=latent)
    cost = model_cost("x", sizes, context=tokens)
    length = next(length for length in cost.lengths if length.tokens == tokens)
    assert length.kv_bytes == KVCache(sizes, capacity=tokens, dtype=torch.bfloat16).nbytes


@given(
    limits=st.sampled_from([{}, {"window": 1}, {"window": 7}, {"window": 50}, {"chunk": 1}, {"chunk": 6}]),
    tokens=st.integers(1, 40),
)
def test_keys_read_are_all_keys_seen(limits: dict[str, int], tokens: int) -> None:
    layer = LayerConfig(None, **limits)  # type: ignore[arg-type]
    assert keys_read(layer, tokens) == sum(keys_seen(layer, length) for length in range(1, tokens + 1))


def test_windows_limit_cache_and_scores() -> None:
    half = model_cost("x", config(layers=2, layer=LayerConfig(None, window=8)), context=64)
    full = model_cost("x", config(layers=2), context=64)
    assert half.lengths[-1].kv_bytes == full.lengths[-1].kv_bytes * 8 // 64
    assert half.blocks[0].window == 8
    scores = [cost.lengths[-1].flops_of_last - cost.flops_per_token for cost in (half, full)]
    assert scores[0] * 8 == scores[1] == 64 * full.score_flops_per_key


def test_lengths_are_sorted_and_have_an_origin() -> None:
    cost = model_cost("x", config(context_length=40_000), context=3, text_tokens=9000)
    assert [(length.tokens, length.origin) for length in cost.lengths] == [
        (3, "asked"), (1024, "example"), (8192, "example"), (9000, "text"), (32768, "example"), (40_000, "context"),
    ]  # fmt: skip
    for context in (0, -1, 1 << 40):
        with pytest.raises(UsageError, match="out of range"):
            model_cost("x", config(), context=context)
