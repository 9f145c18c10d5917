"""The C kernel gives the readable model's logits, for each family, on the same weights and the same cache."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from llmcli.errors import PromptTooLongError
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cpu.support import unsupported
from llmcli.model import KVCache, Transformer
from llmcli.model.quantized.layout import wide
from tests.support.kernels.cpu_step import (
    IDS,
    assert_close,
    error,
    expected,
    fresh,
    in_pieces,
    library,
)
from tests.support.models.newer_cases import NEWER, SPANNING_NEWER
from tests.support.models.parity_cases import CASES, SPANNING
from tests.support.models.random_models import in_bfloat16, in_float32, pack_model, random_model
from tests.support.models.tiny import random_ids

# The other variants must be compiled, which takes longer than their tests.
NATIVE_FIRST = [
    variant if variant == "native" else pytest.param(variant, marks=pytest.mark.slow) for variant in get_args(Variant)
]


@pytest.fixture(params=[*CASES], scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = CASES[request.param]
    return random_model(model_type, **overrides)


@pytest.fixture(params=[*SPANNING, *SPANNING_NEWER], scope="module")
def some_model(request: pytest.FixtureRequest) -> Transformer:
    model_type, overrides = {**CASES, **NEWER}[request.param]
    return random_model(model_type, **overrides)


def test_logits_with_dense_weights(model: Transformer) -> None:
    step = CpuStep(model, threads=2, library=library())
    assert error(in_pieces(step, fresh(model), (1, 2, 3, 16, 5, 1, 15, 16, 11)), expected(model)) < 5e-6


@pytest.mark.parametrize("bits", [4, 8])
def test_logits_with_packed_weights(some_model: Transformer, bits: int) -> None:
    packed = pack_model(copy.deepcopy(some_model), 4 if bits == 4 else 8)
    step = CpuStep(packed, threads=2, library=library())
    assert_close(packed, bits, in_pieces(step, fresh(packed), (1, 2, 3, 33, 5, 1, 25)))


def test_weights_packed_for_gpus_are_refused(some_model: Transformer) -> None:
    with pytest.raises(NoKernelError, match="int4 g128"):
        CpuStep(pack_model(copy.deepcopy(some_model), wide(4)), library=library())


def test_bfloat16_is_as_close_to_float32_as_the_readable_model(some_model: Transformer) -> None:
    rounded = in_bfloat16(some_model)
    exact = expected(in_float32(rounded))
    step = CpuStep(rounded, threads=2, library=library())
    ours = in_pieces(step, fresh(rounded), (16, 16, 1, 1, 16, 16, 4))
    # Keys and values are rounded in both, and the kernel rounds nothing else; but either may send a token to another
    # expert.
    assert error(ours, exact) < max(1.2 * error(expected(rounded).float(), exact), 0.04)


@pytest.mark.parametrize("sizes", [(16,) * 6, (13, 16, 1, 15, 16, 16), (7, 12, 16, 16, 3, 16)])
@pytest.mark.parametrize("window", [None, 21])
def test_many_tokens_are_attended_to_in_bfloat16(sizes: tuple[int, ...], window: int | None) -> None:
    model = random_model("mistral", hidden_size=64, head_dim=32, sliding_window=window).bfloat16()
    ids = random_ids(sum(sizes), seed=4)
    exact = copy.deepcopy(model).float()
    step, cache = CpuStep(model, threads=2, library=library()), model.new_cache()
    parts = [step.forward(ids[cache.length : cache.length + size], cache, only_last=False) for size in sizes]
    with torch.inference_mode():
        theirs = exact(torch.tensor([ids]))[0]
        readable = model(torch.tensor([ids]))[0].float()
    assert error(torch.cat(parts), theirs) < error(readable, theirs)


# Every number of queries per key with and without a window; other instruction sets only change the vector width.
FEW: list[Any] = [("native", group, window) for group in (1, 2, 3, 4, 5) for window in (None, 21)]
FEW += [
    pytest.param(variant, group, window, marks=pytest.mark.slow)
    for variant in ("avx2", "portable")
    for group, window in ((1, 21), (4, None), (5, 21))
]


@pytest.mark.parametrize(("variant", "group", "window"), FEW)
def test_few_queries_are_attended_to_in_bfloat16(variant: Variant, group: int, window: int | None) -> None:
    shape = {"hidden_size": 64, "head_dim": 64, "num_attention_heads": 2 * group, "num_key_value_heads": 2}
    model = random_model("mistral", sliding_window=window, **shape).bfloat16()
    ids = random_ids(72, seed=5)
    exact = copy.deepcopy(model).float()
    with torch.inference_mode():
        theirs = exact(torch.tensor([ids]))[0]
        readable = model(torch.tensor([ids]))[0].float()
    for threads in (1, 2) if variant == "native" else (2,):
        step, cache = CpuStep(model, threads=threads, library=library(variant)), model.new_cache()
        parts = [step.forward(ids[:60], cache, only_last=False)]
        parts += [step.forward(ids[cache.length : cache.length + 1], cache, only_last=False) for _ in range(12)]
        assert error(torch.cat(parts)[60:], theirs[60:]) < error(readable[60:], theirs[60:])


@pytest.mark.parametrize("variant", NATIVE_FIRST)
@pytest.mark.parametrize(("group", "size"), [(1, 64), (2, 32), (3, 96), (4, 16), (3, 64), (5, 64)])
@pytest.mark.parametrize("window", [None, 21])
def test_few_queries_are_attended_to_in_float32(variant: Variant, group: int, size: int, window: int | None) -> None:
    shape = {"hidden_size": 64, "head_dim": size, "num_attention_heads": 2 * group, "num_key_value_heads": 2}
    model = random_model("mistral", sliding_window=window, **shape)
    ids = random_ids(72, seed=5)
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]))[0]
    step, cache = CpuStep(model, threads=2, library=library(variant)), model.new_cache()
    parts = [step.forward(ids[:60], cache, only_last=False)]
    parts += [step.forward(ids[cache.length : cache.length + 1], cache, only_last=False) for _ in range(12)]
    assert error(torch.cat(parts), theirs) < 5e-6


@pytest.mark.parametrize("variant", NATIVE_FIRST)
@pytest.mark.parametrize("heads", [4, 6])
def test_rows_of_latents_are_attended_to_by_whole_vectors(variant: Variant, heads: int) -> None:
    """Values are the first part of keys; four heads are read as they are, six after keys are transposed."""
    sizes = {"kv_lora_rank": 64, "qk_nope_head_dim": 8, "qk_rope_head_dim": 32, "v_head_dim": 6}
    shape = {"hidden_size": 48, "num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": 12}
    model = random_model("minicpm3", **shape, **sizes)
    rounded = in_bfloat16(model)
    for made, exact in ((model, model), (rounded, in_float32(rounded))):
        step = CpuStep(made, threads=2, library=library(variant))
        ours, theirs = in_pieces(step, fresh(made), (16, 16, 16, 12, *(1,) * 10)), expected(exact)
        assert error(ours, theirs) < (5e-6 if made is exact else error(expected(made).float(), theirs))


# Weights of one kind for each family, and of every kind for each variant: features and weights are computed apart.
OTHER_INSTRUCTIONS = [
    (variant, name, (None, 4, 8)[(first + number) % 3])
    for first, variant in enumerate(variant for variant in get_args(Variant) if variant != "native")
    for number, name in enumerate((*SPANNING, *SPANNING_NEWER))
]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name", "bits"), OTHER_INSTRUCTIONS)
def test_every_instruction_set(variant: Variant, name: str, bits: int | None) -> None:
    model_type, overrides = {**CASES, **NEWER}[name]
    model = random_model(model_type, **overrides)
    if bits is not None:
        pack_model(model, 4 if bits == 4 else 8)
    step = CpuStep(model, threads=3, library=library(variant))
    assert_close(model, bits, in_pieces(step, fresh(model), (1, 2, 3, 16, 5, 1, 15, 16, 11)))


@pytest.mark.parametrize("tokens", range(1, 18))
def test_any_number_of_tokens_in_a_call(odd: dict[int | None, Transformer], tokens: int) -> None:
    for bits, model in odd.items():
        step = CpuStep(model, threads=2, library=library())
        cache = fresh(model)
        assert_close(model, bits, in_pieces(step, cache, (3, tokens)), IDS[: 3 + tokens])


@pytest.fixture(scope="module")
def odd() -> dict[int | None, Transformer]:
    """Models, dense and packed, with sizes that are no multiples of vectors, groups or tiles."""
    model = random_model(
        "llama",
        hidden_size=35,
        head_dim=10,
        intermediate_size=77,
        num_attention_heads=5,
        num_key_value_heads=1,
        vocab_size=263,
    )
    return {None: model, 4: pack_model(copy.deepcopy(model), 4), 8: pack_model(copy.deepcopy(model), 8)}


def test_windowed_caches_that_move_shrink_and_grow(some_model: Transformer) -> None:
    step, logits = CpuStep(some_model, threads=2, library=library()), expected(some_model)
    # So small that windowed layers drop keys and move their windows many times in this text.
    cache = fresh(some_model, rewind=5, room=3)
    for length, sizes in ((0, (9, 1, 1, 16)), (24, (1,) * 20), (41, (9, 16))):
        cache.truncate(length)
        ours = in_pieces(step, cache, sizes)
        assert error(ours, logits[length : cache.length]) < 5e-6
    cache.truncate(cache.reusable(20))
    start = cache.length
    assert error(in_pieces(step, cache, (16, 4)), logits[start : start + 20]) < 5e-6


def test_kernel_and_readable_model_alternate_on_one_cache(some_model: Transformer) -> None:
    step, cache, logits = CpuStep(some_model, threads=2, library=library()), fresh(some_model), expected(some_model)
    for start, stop in ((0, 10), (10, 20), (20, 27), (27, 28), (28, 29), (29, 30)):
        if start // 10 % 2:
            with torch.inference_mode():
                ours = some_model(torch.tensor([IDS[start:stop]]), cache)[0]
        else:
            ours = step.forward(IDS[start:stop], cache, only_last=False)
        assert error(ours, logits[start:stop]) < 5e-6


def test_long_contexts_are_split_by_keys_among_threads(some_model: Transformer) -> None:
    """With few heads and many keys, each thread takes a part of the keys."""
    ids = random_ids(90, seed=3)
    for threads in (1, 2, 5):
        step, cache = CpuStep(some_model, threads=threads, library=library()), some_model.new_cache()
        cache.expected_length = 128
        ours = [step.forward(ids[start : start + 15], cache, only_last=False) for start in range(0, 90, 15)]
        ours.append(step.forward([7], cache))
        with torch.inference_mode():
            reference = some_model.new_cache()
            reference.expected_length = 128
            theirs = some_model(torch.tensor([[*ids, 7]]), reference)[0]
        assert error(torch.cat(ours), theirs) < 5e-6


def test_only_last_gives_the_last_tokens_logits(odd: dict[int | None, Transformer]) -> None:
    for model in odd.values():
        step = CpuStep(model, threads=2, library=library())
        all_logits = step.forward(IDS[:13], fresh(model), only_last=False)
        last = step.forward(IDS[:13], fresh(model))
        torch.testing.assert_close(last[0], all_logits[-1], rtol=1e-5, atol=1e-5)


def test_two_engines_run_at_the_same_time(odd: dict[int | None, Transformer]) -> None:
    import threading

    results: dict[int, torch.Tensor] = {}

    def read(number: int, model: Transformer) -> None:
        step = CpuStep(model, threads=2, library=library())
        results[number] = in_pieces(step, fresh(model), (1,) * 30)

    models = [odd[None], odd[None]]
    threads = [threading.Thread(target=read, args=pair) for pair in enumerate(models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(results[0], results[1])


def test_an_interruption_leaves_no_addresses_of_freed_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", max_position_embeddings=300)
    step, cache = CpuStep(model, threads=1, library=load_library()), model.new_cache()
    first = step.forward([1, 2, 3], cache)
    step.forward([2] * 252, cache)
    address, shape = torch.Tensor.data_ptr, (256, model.config.head_dim // 2)

    def interrupted(tensor: torch.Tensor) -> int:
        if tensor.shape == shape:
            raise KeyboardInterrupt
        return address(tensor)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.Tensor, "data_ptr", interrupted)
        step.forward([3] * 2, cache)
    # Freed memory is soon reused.
    others = [torch.full(shape, 9.0) for _ in range(50)]
    assert torch.equal(step.forward([1, 2, 3], model.new_cache()), first)
    del others


def test_unsupported_models_are_refused_with_a_reason() -> None:
    model_type, overrides = CASES["deepseek v3"]
    model = random_model(model_type, **overrides)
    model.config = replace(model.config, attention_softcap=2.0)
    assert unsupported(model.config) == "latent attention with capped scores"
    with pytest.raises(NoKernelError, match="capped scores"):
        CpuStep(model, library=library())


def test_half_precision_is_refused(odd: dict[int | None, Transformer]) -> None:
    half = odd[None]
    with pytest.raises(NoKernelError, match="float16"):
        CpuStep(copy.deepcopy(half).half(), library=library())


def test_ids_and_caches_out_of_bounds_are_refused(odd: dict[int | None, Transformer]) -> None:
    model = odd[None]
    step = CpuStep(model, threads=1, library=library())
    for ids in ([263], [-1]):
        cache = fresh(model)
        with pytest.raises(ValueError, match="refuses"):
            step.forward(ids, cache)
        assert cache.length == 0
    with pytest.raises(ValueError, match="cache"):
        step.forward([1], KVCache(model.config, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="cache"):
        step.forward([1], KVCache(model.config, batch=2))
    learned = random_model("gpt2", **CASES["gpt-2"][1])
    with pytest.raises(PromptTooLongError, match="129 tokens"):
        CpuStep(learned, threads=1, library=library()).forward([1] * 129, fresh(learned))


@pytest.mark.parametrize("variant", [NATIVE_FIRST[0], NATIVE_FIRST[-1]])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_step_reports_the_greatest_logit(some_model: Transformer, threads: int, variant: Variant) -> None:
    step, cache = CpuStep(some_model, threads=threads, library=library(variant)), fresh(some_model)
    for ids in (IDS[:3], IDS[3:4]):
        logits = step.forward(ids, cache)
        assert step.greatest == (int(logits.argmax()), float(logits.max()))
    step.forward(IDS[4:6], cache, only_last=False)
    assert step.greatest is None


def test_the_greatest_logit_is_the_first_of_equal_ones_or_a_nan() -> None:
    model = random_model("llama", vocab_size=70)
    head = model.lm_head
    assert isinstance(head, torch.nn.Linear)
    head.weight.data.zero_()
    step, cache = CpuStep(model, threads=3), fresh(model)
    step.forward([1], cache)
    assert step.greatest == (0, 0.0)
    for place in (69, 40):
        head.weight.data[place] = torch.nan
        step.forward([1], cache)
        assert step.greatest is not None
        assert step.greatest[0] == place and math.isnan(step.greatest[1])


@pytest.mark.parametrize("variant", NATIVE_FIRST)
@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("smollm", "self_attn.q_proj"),
        ("smollm", "mlp.up_proj"),
        ("gpt-oss", "self_attn.k_proj"),
        ("gpt-oss", "mlp.gate"),
        ("llama 4", "mlp.gate"),
        ("laguna, a gate for each value", "self_attn.gate_proj"),
        ("laguna, equal layers", "self_attn.gate_proj"),
        ("laguna, equal layers", "mlp.gate"),
        ("phi-3.5-moe", "mlp.gate"),
        ("bitnet", "mlp.up_proj"),
        ("apertus", "mlp.up_proj"),
        ("gemma 3n", "mlp.gate_proj"),
        ("gemma 3n", "laurel.linear_left"),
        ("gemma 4, small", "per_layer_input.gate"),
        ("deepseek v3", "self_attn.kv_a_proj_with_mqa"),
        ("deepseek v3", "self_attn.kv_b_proj"),
    ],
)
def test_nan_in_a_weight_reaches_the_logits(variant: Variant, case: str, part: str) -> None:
    """Set a row of weights to NaN, which a maximum, a rounding, a softmax, a sink or a router could hide."""
    model_type, overrides = {**CASES, **NEWER}[case]
    model = random_model(model_type, **overrides)
    for bits in (None, 4, 8):
        broken = copy.deepcopy(model)
        with torch.no_grad():
            next(value for name, value in broken.named_parameters() if name.endswith(f"{part}.weight"))[1] = math.nan
        if bits is not None:
            pack_model(broken, 4 if bits == 4 else 8)
        step = CpuStep(broken, threads=2, library=library(variant))
        for sizes in ((1,), (3, 2)):
            assert in_pieces(step, fresh(broken), sizes).isnan().all(), (bits, sizes)
