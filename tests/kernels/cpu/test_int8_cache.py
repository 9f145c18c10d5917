"""A KV cache in 8 bits: the C kernel reads and writes it as the readable model does, in every order of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu.build import Variant
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cuda.readable_graph_step import GraphStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.kernels.select import why_no_kernel
from llmcli.model import KVCache, Transformer
from tests.support.kernels.cpu_step import IDS, error, expected, fresh, in_pieces, library
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import random_model
from tests.support.models.tiny import random_ids

# Where the processor has instructions for bfloat16, keys and values are unpacked to that.
SAME, NEAR = 0.01, 0.04
PIECES = (13, 1, 1, 16, 5, 1, 1, 16, 16)


def in_8_bits(model: Transformer) -> Transformer:
    model.config = replace(model.config, int8_cache=True)
    return model


def usual_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The median error of a token: rounding sends a few to other experts."""
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).median())


@torch.inference_mode()
def readable(model: Transformer, cache: KVCache, sizes: Sequence[int]) -> torch.Tensor:
    parts = []
    for size in sizes:
        start = cache.length
        parts.append(model(torch.tensor([IDS[start : start + size]]), cache)[0])
    return torch.cat(parts)


# Windows, soft caps, sinks, chunks, gates, biases by distance, shared keys, and latents.
MODELS = ["smollm", "gemma 2", "gpt-oss", "llama 4", "trinity", "bloom, six heads", "gemma 3n", "deepseek v3"]


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return in_8_bits(random_model(model_type, **overrides))


def test_logits_are_those_of_the_readable_model(model: Transformer) -> None:
    exact = copy.deepcopy(model)
    exact.config = replace(exact.config, int8_cache=False)
    step = CpuStep(model, threads=2, library=library())
    ours = in_pieces(step, fresh(model), PIECES)
    assert error(ours, readable(model, fresh(model), PIECES)) < SAME
    # Rounded, and by no more than 8 bits explain.
    assert 1e-4 < usual_error(ours, expected(exact)) < NEAR


SHAPES: list[Any] = [
    ("native", group, size) for group, size in ((1, 64), (4, 64), (4, 80), (3, 32), (5, 16), (9, 64), (40, 32))
]
SHAPES += [
    pytest.param(variant, group, size, marks=pytest.mark.slow)
    for variant in ("avx2", "portable")
    for group, size in ((4, 64), (3, 40), (5, 16))
]


@pytest.mark.parametrize(("variant", "group", "size"), SHAPES)
@pytest.mark.parametrize("window", [None, 21])
def test_any_shape_of_heads(variant: Variant, group: int, size: int, window: int | None) -> None:
    shape = {"hidden_size": 64, "head_dim": size, "num_attention_heads": 2 * group, "num_key_value_heads": 2}
    model = in_8_bits(random_model("mistral", sliding_window=window, **shape))
    step = CpuStep(model, threads=2, library=library(variant))
    for dtype in (torch.float32, torch.bfloat16):
        ours = in_pieces(step, fresh(model), PIECES)
        theirs = readable(model, fresh(model), PIECES)
        assert usual_error(ours, theirs.float()) < (SAME if dtype == torch.float32 else NEAR)
        model = model.bfloat16()
        step = CpuStep(model, threads=1, library=library(variant))


@pytest.mark.parametrize(("group", "size"), [(1, 64), (4, 64), (7, 128), (16, 64)])
def test_rounding_queries_and_weights_to_16_bits_loses_almost_nothing(group: int, size: int) -> None:
    shape = {"hidden_size": 64 * group, "head_dim": size, "num_attention_heads": group, "num_key_value_heads": 1}
    model = in_8_bits(random_model("llama", max_position_embeddings=600, num_hidden_layers=1, **shape))
    # Plain C unpacks keys and values to float32.
    exact, step = (CpuStep(model, threads=2, library=library(variant)) for variant in ("portable", "native"))
    cache = fresh(model)
    exact.forward(random_ids(500), cache)
    for length, tokens in ((500, 1), (499, 1), (450, 16 // group)):
        logits = []
        for which in (exact, step):
            # Both read what plain C wrote, since sums in another order may round a number to another code.
            cache.truncate(length)
            logits.append(which.forward(IDS[:tokens], cache))
        assert error(logits[1], logits[0]) < 5e-4


def test_both_write_the_same_rows() -> None:
    model = in_8_bits(random_model("llama", head_dim=40))
    mine, theirs = fresh(model), fresh(model)
    in_pieces(CpuStep(model, threads=2, library=library()), mine, (16, 1))
    readable(model, theirs, (16, 1))
    keys, others = mine.layers[0].keys[:, :, :17].int(), theirs.layers[0].keys[:, :, :17].int()
    # Sums in another order may round a number or a scale the other way.
    assert (keys != others).float().mean() < 0.01
    assert (keys - others)[..., :40].abs().max() <= 1


def test_tokens_that_are_not_finite_reach_the_logits() -> None:
    model = in_8_bits(random_model("llama"))
    with torch.no_grad():
        model.get_parameter("layers.0.self_attn.k_proj.weight")[3] = torch.nan
    step = CpuStep(model, threads=2, library=library())
    assert step.forward(IDS[:3], fresh(model)).isnan().all()


def test_windows_that_move_and_texts_that_shrink(model: Transformer) -> None:
    step, whole = CpuStep(model, threads=2, library=library()), readable(model, fresh(model), (len(IDS),))
    cache = fresh(model, rewind=5, room=3)
    for length, sizes in ((0, (9, 1, 1, 16)), (24, (1,) * 20), (41, (9, 16))):
        cache.truncate(length)
        assert usual_error(in_pieces(step, cache, sizes), whole[length : cache.length]) < NEAR


def test_kernel_and_readable_model_alternate(model: Transformer) -> None:
    step, cache = CpuStep(model, threads=2, library=library()), fresh(model)
    whole = readable(model, fresh(model), (len(IDS),))
    for turn, size in enumerate((10, 9, 1, 1, 16, 1)):
        start = cache.length
        ours = in_pieces(step, cache, (size,)) if turn % 2 else readable(model, cache, (size,))
        assert usual_error(ours, whole[start : start + size]) < NEAR


def test_tokens_together_and_in_batches_equal_single_ones(model: Transformer) -> None:
    step = CpuStep(model, threads=2, library=library())
    apart, together, batch = fresh(model), fresh(model), [fresh(model) for _ in range(3)]
    for cache in (apart, together, *batch):
        step.forward(IDS[:40], cache)
    alone = torch.cat([step.forward([token], apart) for token in IDS[40:45]])
    assert torch.equal(step.forward_each(IDS[40:45], together), alone)
    assert torch.equal(step.forward_rows([IDS[40]] * 3, batch), alone[:1].expand(3, -1))
    for cache in (apart, together):
        cache.truncate(41)
    request = SamplingRequest(SamplingParams(temperature=0), [0.5] * 4, model.config.vocab_size)
    chosen = step.forward_multi_step(IDS[41], together, request)
    assert chosen[0] == int(step.forward([IDS[41]], apart)[0].argmax())


def test_gpu_steps_leave_it_to_the_readable_model() -> None:
    model = in_8_bits(random_model("llama"))
    assert "int8_cache" in (why_no_kernel(model.config, torch.device("cuda")) or "")
    with pytest.raises(NoKernelError, match="8 bits"):
        GraphStep(model, "")
