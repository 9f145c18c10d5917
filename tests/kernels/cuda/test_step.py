"""The Triton kernels give the readable model's logits, for each family, on the same weights and the same cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.errors import PromptTooLongError
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.select import slower_step
from llmcli.model import KVCache, Transformer
from llmcli.model.quantized.layout import PackedFormat, narrow, wide
from tests.support.kernels.triton_device import DEVICE
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import pack_model, random_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

from llmcli.kernels.cuda.step import CudaStep  # isort: skip

# Without a GPU, Triton's interpreter runs the kernels.
pytestmark = pytest.mark.slow

VOCABULARY = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.randint(0, 70, (26,), generator=torch.Generator().manual_seed(1)).tolist()
READ = 14
# Together: windows, chunks, sinks, softcaps, every norm and placement, partial rotations, experts of all kinds.
SEVERAL = (
    "mistral, window shorter than the text", "gemma 2", "olmo 2", "stablelm, parallel, normed heads",
    "phi-4-mini, partial longrope, tied", "mixtral",
)  # fmt: skip
SINGLE = ("qwen2", "qwen3", "olmo", "gpt-2", "granite", "qwen2-moe", "gpt-oss", "llama 4")


def made(name: str, layers: int = 2) -> Transformer:
    model_type, overrides = CASES[name]
    # As few layers as possible: the interpreter is slow.
    few = {} if any(key.endswith(("layer_types", "layers")) for key in overrides) else {"num_hidden_layers": layers}
    return random_model(model_type, **{**VOCABULARY, **few, **overrides}).to(DEVICE)


@pytest.fixture(scope="module")
def smollm() -> Transformer:
    # What several layers do to each other is tested with the families.
    return made("smollm", layers=1)


def fresh(model: Transformer, length: int = len(IDS)) -> KVCache:
    cache = model.new_cache(capacity=4)
    cache.expected_length = length
    return cache


@torch.inference_mode()
def read(model: Transformer, cache: KVCache, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([ids], device=DEVICE), cache)[0]
    return logits.float()


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def assert_right(model: Transformer, several: int = 3, most: float = 3e-6) -> None:
    """Compare logits: prompt by the readable model, one token and `several` by the kernels, the rest by the model."""
    step, cache = CudaStep(model, slower_step), fresh(model)
    theirs = read(model, fresh(model), IDS)
    read(model, cache, IDS[:READ])
    ours = [step.forward(IDS[READ : READ + 1], cache)]
    if several:
        ours.append(step.forward(IDS[READ + 1 : READ + 1 + several], cache, only_last=False))
    ours.append(read(model, cache, IDS[cache.length :]))
    assert cache.length == len(IDS)
    assert error(torch.cat(ours), theirs[READ:]) < most


@pytest.mark.parametrize("name", SEVERAL)
def test_families_in_calls_of_several_tokens(name: str) -> None:
    assert_right(made(name), several=2)


@pytest.mark.parametrize("name", SINGLE)
def test_families_by_single_tokens(name: str) -> None:
    assert_right(made(name), several=0)


@pytest.mark.parametrize("several", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (8, 9))])
def test_several_tokens(smollm: Transformer, several: int) -> None:
    assert_right(smollm, several)


@pytest.mark.parametrize(
    ("kept", "several"), [(wide(4), 8), (wide(8), 9), (wide(4, 32), 10), (wide(8, 32), 4), (wide(8, 128), 3)], ids=str
)
def test_one_token_and_several_on_packed_weights(smollm: Transformer, kept: PackedFormat, several: int) -> None:
    assert_right(pack_model(copy.deepcopy(smollm).cpu(), kept).to(DEVICE), several)


@pytest.mark.parametrize("kept", [wide(8), wide(4, 32), wide(8, 128)], ids=str)
def test_packed_experts(kept: PackedFormat) -> None:
    assert_right(pack_model(made("mixtral", layers=1).cpu(), kept).to(DEVICE), several=0)


def test_matrices_of_a_layer_in_different_formats(smollm: Transformer) -> None:
    model, fewer = (pack_model(copy.deepcopy(smollm).cpu(), wide(4 if bits == 4 else 8)).to(DEVICE) for bits in (4, 8))
    block: Any
    other: Any
    for block, other in zip(model.layers, fewer.layers, strict=True):
        block.self_attn.v_proj = other.self_attn.v_proj
        block.mlp.down_proj = other.mlp.down_proj
    assert_right(model)
    block.mlp.up_proj = other.mlp.up_proj
    with pytest.raises(NoKernelError, match="gate and up"):
        CudaStep(model, slower_step)
    with pytest.raises(NoKernelError, match="packed for CPUs"):
        CudaStep(pack_model(copy.deepcopy(smollm).cpu(), narrow(4)), slower_step)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.bfloat16, None), (torch.float16, None), (torch.bfloat16, wide(4))],
    ids=str,
)
def test_sixteen_bits_are_as_close_to_float32_as_the_readable_model(
    smollm: Transformer, dtype: torch.dtype, kept: PackedFormat | None
) -> None:
    model = copy.deepcopy(smollm).to(dtype)
    precise = copy.deepcopy(model).float()
    if kept is not None:
        model, precise = (pack_model(each.cpu(), kept).to(DEVICE) for each in (model, precise))
    exact = read(precise, fresh(smollm), IDS)[READ:]
    step, cache = CudaStep(model, slower_step), fresh(model)
    read(model, cache, IDS[:READ])
    ours = torch.cat([step.forward([token], cache) for token in IDS[READ : READ + 3]])
    readable = read(model, fresh(model), IDS)[READ:]
    assert error(ours, exact[:3]) < 1.2 * error(readable[:3], exact[:3])


@pytest.mark.parametrize("window", [None, 300])
def test_a_long_text_whose_cache_grows_and_moves(window: int | None) -> None:
    sizes = {**VOCABULARY, "num_hidden_layers": 1, "sliding_window": window, "max_position_embeddings": 4096}
    model = random_model("mistral", **sizes).to(DEVICE)
    ids = torch.randint(0, 70, (1100,), generator=torch.Generator().manual_seed(2)).tolist()
    theirs = read(model, fresh(model), ids)
    step, cache = CudaStep(model, slower_step), fresh(model, len(ids))
    # Within the first table of rotations, past its end, and wherever the cache's memory changes.
    moved = 0
    for upto in (255, 511, 1023):
        read(model, cache, ids[cache.length : upto])
        memory = cache.layers[0]
        for _ in range(2):
            at = cache.length
            assert error(step.forward([ids[at]], cache), theirs[at : at + 1]) < 3e-6
        moved += cache.layers[0] is not memory
    assert moved


def test_two_alternating_caches_and_a_truncated_text(smollm: Transformer) -> None:
    step, caches = CudaStep(smollm, slower_step), [fresh(smollm), fresh(smollm)]
    other = IDS[::-1]
    read(smollm, caches[0], IDS[:4])
    read(smollm, caches[1], other[:4])
    caches[1].truncate(2)
    texts = IDS, [*other[:2], *IDS]
    for _ in range(2):
        for text, cache in zip(texts, caches, strict=True):
            ours = step.forward([text[cache.length]], cache)
            assert error(ours, read(smollm, fresh(smollm), text[: cache.length])[-1:]) < 3e-6


def test_drafts_are_verified_several_tokens_a_pass(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama", num_hidden_layers=2), dtype="float32", device=str(DEVICE))
    size = loaded.tokenizer.vocab_size
    drafting = DraftModel(PrefixCache(loaded.model, context_length=64, vocab_size=size))
    speculation = SpeculationState(draft=drafting, tokens=3)
    params = SamplingParams(temperature=0, max_tokens=5)
    said = []
    for step, helped in ((None, None), (CudaStep(loaded.model, slower_step), speculation)):
        engine = Engine(loaded.model, loaded.tokenizer, step=step, speculation=helped)
        events = list(engine.stream(IDS, params, probabilities=False))
        said.append([event.id for event in events if isinstance(event, Step)])
    finish = events[-1]
    assert said[0] == said[1] and len(said[0]) == 5
    assert isinstance(finish, Finish) and finish.stats.accepted_tokens == 3
    assert finish.stats.path.startswith("triton")


def test_a_prompt_is_read_by_the_readable_model(smollm: Transformer) -> None:
    step, cache = CudaStep(smollm, slower_step), fresh(smollm)
    assert error(step.forward(IDS, cache), read(smollm, fresh(smollm), IDS)[-1:]) < 1e-6
    assert step.forward(IDS[:20], fresh(smollm), only_last=False).shape == (20, 70)


def test_no_first_token_waits_for_a_compiler(smollm: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(_plan: object) -> None:
        raise AssertionError("kernels are compiled by their first launch")

    monkeypatch.setattr("llmcli.kernels.cuda.launch_plan.LaunchPlan.launch", launch)
    for prompt in ([5], IDS):
        ours = CudaStep(smollm, slower_step).forward(prompt, fresh(smollm))
        assert error(ours, read(smollm, fresh(smollm), prompt)[-1:]) < 1e-6


def test_unsupported_models_are_refused_with_a_reason(smollm: Transformer) -> None:
    with pytest.raises(NoKernelError, match="latent attention"):
        CudaStep(made("deepseek v3"), slower_step)
    with pytest.raises(NoKernelError, match="float64"):
        CudaStep(copy.deepcopy(smollm).double(), slower_step)
    step = CudaStep(smollm, slower_step)
    for cache in (
        KVCache(smollm.config, dtype=torch.bfloat16, device=DEVICE), KVCache(smollm.config, batch=2, device=DEVICE)
    ):  # fmt: skip
        cache.advance(1)
        with pytest.raises(ValueError, match="cache"):
            step.forward([1], cache)


def test_a_text_past_the_learned_positions_is_refused() -> None:
    model = made("gpt-2")
    cache = model.new_cache()
    read(model, cache, [1] * 128)
    with pytest.raises(PromptTooLongError, match="129 tokens"):
        CudaStep(model, slower_step).forward([1], cache)


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type != "cuda", reason="there is no CUDA device")
def test_the_graph_gives_what_its_launches_give(smollm: Transformer) -> None:
    step, cache = CudaStep(smollm, slower_step), fresh(smollm)
    # The first call launches each kernel separately, the others replay the graph.
    ours = torch.cat([step.forward([token], cache) for token in IDS])
    assert error(ours, read(smollm, fresh(smollm), IDS)) < 3e-6
    assert "CUDA graph" in step.name
