"""Asynchronous GPU decoding gives the same replies as waiting for each token, however they end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.engine import Engine, Finish, Prefill, SamplingParams, Step
from llmcli.errors import LlmcliError
from llmcli.kernels.base import StepCapabilities
from llmcli.kernels.cuda.readable_graph_step import GraphStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.model import KVCache
from tests.support.models.puppet import ASSISTANT, chain, loop, write_puppet
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.replies import GREEDY, PROMPT, check_abandoned, check_closed_late, check_interrupted, outcome, reply
from tests.support.sampling_filters import FILTERS


class CountingStep(ReadableStep):
    """The readable model as a step that counts its passes."""

    capabilities = StepCapabilities(device_tokens=True)

    def __init__(self, loaded: llmcli.LoadedModel) -> None:
        super().__init__(loaded.model)
        self.device_passes = self.forward_passes = 0
        self.before: Callable[[], None] = lambda: None

    def forward(self, ids: object, cache: KVCache, *, only_last: bool = True) -> Tensor:
        self.forward_passes += 1
        return super().forward(ids, cache, only_last=only_last)  # type: ignore[arg-type]

    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        self.device_passes += 1
        logits = super().forward_device_token(token, cache)
        self.before()
        return logits


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", eos_token_id=None)
    return llmcli.load(folder, device="cpu", dtype="float32")


def pair(loaded: llmcli.LoadedModel, context: int | None = None) -> tuple[Engine, CountingStep, Engine]:
    """An engine with pipelined decoding, its step, and an engine with single steps."""
    step = CountingStep(loaded)
    engines = [
        Engine(loaded.model, loaded.tokenizer, stop_ids=loaded.stop_ids, context_length=context, step=each)
        for each in (step, None)
    ]
    return engines[0], step, engines[1]


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        replace(GREEDY, repeat_penalty=1.5),
        replace(GREEDY, max_tokens=1),
        replace(GREEDY, max_tokens=2),
        SamplingParams(temperature=1.5, seed=3, max_tokens=20),
        SamplingParams(temperature=1.2, top_k=0, top_p=0.9, repeat_penalty=1.2, seed=4, max_tokens=20),
        SamplingParams(temperature=3.0, top_k=100, min_p=0.1, seed=5),
    ],
)
def test_replies_of_a_chat_equal_single_steps(loaded: llmcli.LoadedModel, params: SamplingParams) -> None:
    ours, step, theirs = pair(loaded, context=70)
    ids = PROMPT
    for turn in range(3):
        mine, yours = reply(ours, ids, params), reply(theirs, ids, params)
        assert outcome(mine) == outcome(yours)
        ids = [*ids, *(event.id for event in mine if isinstance(event, Step)), *random_ids(3, seed=turn)][:60]
        # One pass for each token but the first, which comes from the prefill: none was wasted.
        assert step.device_passes == sum(isinstance(event, Step) for event in mine) - 1
        step.device_passes = 0


@pytest.mark.parametrize("name", FILTERS)
def test_filters_that_the_device_does_not_support_still_apply(loaded: llmcli.LoadedModel, name: str) -> None:
    ours, step, theirs = pair(loaded)
    off = SamplingParams(temperature=1.5, seed=3, max_tokens=24)
    params = replace(off, **FILTERS[name])  # type: ignore[arg-type]
    ids = [*PROMPT, *PROMPT]
    assert outcome(reply(ours, ids, params)) == outcome(mine := reply(theirs, ids, params))
    assert [e.id for e in mine if isinstance(e, Step)] != [e.id for e in reply(theirs, ids, off) if isinstance(e, Step)]
    assert step.device_passes == 0


@pytest.mark.parametrize(
    ("says", "stop", "wasted"),
    [(b"abcdef", (), 1), (b"abcdef", ("cd",), 1), (b"abcdef", ("xy", "f"), 1), (b"a", (), 1), (b"", (), 0)],
)
def test_a_reply_ends_after_one_wasted_pass(says: bytes, stop: tuple[str, ...], wasted: int, tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(says)), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0, stop=stop)
    mine, yours = reply(ours, [65, ASSISTANT], params), reply(theirs, [65, ASSISTANT], params)
    assert outcome(mine) == outcome(yours)
    seen = sum(isinstance(event, Step) for event in mine) + (not stop)
    assert step.device_passes == seen - 1 + wasted
    # The wasted pass is dropped from the cache: the next reply is as after single steps.
    again = [65, ASSISTANT, *(event.id for event in mine if isinstance(event, Step)), 66, ASSISTANT]
    mine, yours = reply(ours, again, params), reply(theirs, again, params)
    assert outcome(mine)[2:5] == outcome(yours)[2:5]
    assert isinstance(mine[0], Prefill) and isinstance(yours[0], Prefill)
    # After a stop string its last token has been read already, and need not be read again.
    assert mine[0].cached == yours[0].cached + bool(stop)


def test_a_pass_is_launched_before_its_token_reaches_the_host(loaded: llmcli.LoadedModel) -> None:
    ours, step, _ = pair(loaded)
    made = [step.device_passes for event in ours.stream(PROMPT, GREEDY, probabilities=False) if isinstance(event, Step)]
    assert made == [0, *range(2, 12), 11]


def test_the_context_ends_a_reply(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abc"), context=20), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert outcome(reply(ours, [ASSISTANT], params)) == outcome(reply(theirs, [ASSISTANT], params))
    assert step.device_passes == 18


@pytest.mark.parametrize("probabilities", [True, False])
def test_probabilities_do_not_change_the_tokens_of_a_seed(loaded: llmcli.LoadedModel, probabilities: bool) -> None:
    params = SamplingParams(temperature=1.5, top_k=0, seed=7, max_tokens=15)
    ours, step, theirs = pair(loaded)
    mine = list(ours.stream(PROMPT, params, probabilities=probabilities))
    assert (step.device_passes > 0) is not probabilities
    # A seed gives the same text with and without probabilities.
    yours = reply(theirs, PROMPT, params)
    assert [e.id for e in mine if isinstance(e, Step)] == [e.id for e in yours if isinstance(e, Step)]


def test_ctrl_c_interrupts_a_pass_and_the_cache_stays_valid(loaded: llmcli.LoadedModel) -> None:
    ours, step, theirs = pair(loaded)

    def press_ctrl_c() -> None:
        if step.device_passes == 5:
            signal.raise_signal(signal.SIGINT)

    step.before = press_ctrl_c
    # The fifth pass reads the token after the next one that the host receives.
    check_interrupted(ours, theirs, said=4)


def test_an_abandoned_reply_leaves_the_cache_valid(loaded: llmcli.LoadedModel) -> None:
    ours, _, theirs = pair(loaded)
    check_abandoned(ours, theirs)


def test_closing_a_reply_late_does_not_disturb_the_next(tmp_path: Path) -> None:
    model = tiny_model("mistral", eos_token_id=None, sliding_window=7, max_position_embeddings=500)
    ours, _, theirs = pair(llmcli.load(save(model, tmp_path), device="cpu", dtype="float32"))
    check_closed_late(ours, theirs)


def test_longrope_and_a_hook_attached_during_a_reply(tmp_path: Path) -> None:
    from tests.support.models.parity_cases import CASES

    model_type, overrides = CASES["phi-3, longrope, long"]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert outcome(reply(ours, PROMPT, params)) == outcome(reply(theirs, PROMPT, params))
    # `forward` read the prompt only: RoPE factors do not change during the reply.
    assert step.device_passes and step.forward_passes == 1
    steps = 0
    for event in ours.stream(PROMPT, replace(params, max_tokens=12), probabilities=False):
        steps += isinstance(event, Step)
        if steps == 4:
            hook, device_passes = loaded.model.norm.register_forward_hook(lambda *_: None), step.device_passes
            break
    mine = reply(ours, PROMPT, replace(params, max_tokens=12))
    hook.remove()
    assert step.device_passes == device_passes
    assert outcome(mine)[2] == outcome(reply(theirs, PROMPT, replace(params, max_tokens=12)))[2]


def test_nan_logits_are_an_error_and_the_next_reply_is_correct(loaded: llmcli.LoadedModel) -> None:
    class Broken(CountingStep):
        def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
            logits = super().forward_device_token(token, cache)
            return logits.fill_(torch.nan) if self.device_passes == 4 else logits

    engine = Engine(loaded.model, loaded.tokenizer, step=Broken(loaded))
    with pytest.raises(LlmcliError, match="not a number"):
        reply(engine, PROMPT, GREEDY)
    _, _, theirs = pair(loaded)
    assert outcome(reply(engine, PROMPT, GREEDY))[2:4] == outcome(reply(theirs, PROMPT, GREEDY))[2:4]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_captured_graph_samples_the_same_tokens(loaded: llmcli.LoadedModel, seed: int) -> None:
    engine = Engine(loaded.model, loaded.tokenizer, step=GraphStep(loaded.model, ""))
    params = SamplingParams(temperature=1.5, seed=seed, max_tokens=10)
    _, _, theirs = pair(loaded)
    assert outcome(reply(engine, PROMPT, params))[2:4] == outcome(reply(theirs, PROMPT, params))[2:4]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "params",
    [replace(GREEDY, repeat_penalty=1.5), *(SamplingParams(temperature=1.5, top_k=k, seed=3) for k in (0, 40))],
)
def test_on_a_gpu_probabilities_do_not_change_the_tokens(params: SamplingParams, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", eos_token_id=None)
    engine = llmcli.load(folder, device="cuda", dtype="float32").engine()
    texts = []
    for probabilities in (True, False, False):
        events = list(engine.stream(PROMPT, params, probabilities=probabilities))
        assert isinstance(events[-1], Finish) and "CUDA graph" in events[-1].stats.path
        texts.append([event.id for event in events if isinstance(event, Step)])
    assert texts[0] == texts[1] == texts[2]
