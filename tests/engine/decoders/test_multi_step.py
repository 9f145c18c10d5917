"""Multi-step decoding gives the same replies as one token per call, however they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.errors import LlmcliError
from llmcli.kernels.base import FastStep
from llmcli.kernels.cpu import signals
from llmcli.kernels.cpu.signals import alarm
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache
from tests.support.models.parity_cases import CASES
from tests.support.models.puppet import ASSISTANT, chain, loop, write_puppet
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.replies import GREEDY, PROMPT, check_abandoned, check_closed_late, check_interrupted, outcome, reply
from tests.support.sampling_filters import FILTERS

# So long that each call chooses as many tokens as it can, however busy the machine is.
PATIENT_S = 1000.0


@contextmanager
def alarm_with_signal() -> Iterator[int]:
    """`alarm`, with a signal that arrives inside the block."""
    with alarm() as descriptor:
        os.kill(os.getpid(), signal.SIGUSR1)
        yield descriptor


class ForwardOnlyKernel(FastStep):
    """The kernel as a step that supports only `forward`."""

    prefill_chunk = 512
    name = ""

    def __init__(self, loaded: llmcli.LoadedModel) -> None:
        self._step = CpuStep(loaded.model, threads=1)

    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        return self._step.forward(ids, cache, only_last=only_last)


class CountingKernel(CpuStep):
    """The kernel; `bursts` has the number of tokens that each multi-step call chose."""

    name = ""

    def __init__(self, loaded: llmcli.LoadedModel) -> None:
        super().__init__(loaded.model, threads=1)
        self.bursts: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def forward_multi_step(self, token: int, cache: KVCache, request: SamplingRequest) -> list[int]:
        chosen = super().forward_multi_step(token, cache, request)
        self.bursts.append(len(chosen))
        self.before()
        return chosen


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", eos_token_id=None)
    return llmcli.load(folder, device="cpu", dtype="float32")


def pair(
    loaded: llmcli.LoadedModel,
    context: int | None = None,
    stops: Sequence[int] = (),
    multi_step_s: float = PATIENT_S,
) -> tuple[Engine, CountingKernel, Engine]:
    """An engine with multi-step decoding, its step, and an engine with single steps."""
    step, stop_ids = CountingKernel(loaded), {*loaded.stop_ids, *stops}
    engines = [
        Engine(
            loaded.model,
            loaded.tokenizer,
            stop_ids=stop_ids,
            context_length=context,
            step=each,
            multi_step_s=multi_step_s,
        )
        for each in (step, ForwardOnlyKernel(loaded))
    ]
    return engines[0], step, engines[1]


@pytest.mark.parametrize(
    ("params", "bursts"),
    [
        (GREEDY, [1, 8, 2]),
        (replace(GREEDY, max_tokens=1), []),
        (replace(GREEDY, max_tokens=2), [1]),
        (SamplingParams(temperature=1.5, seed=3, max_tokens=20), [1, 8, 8, 2]),
        (SamplingParams(temperature=3.0, top_k=100, min_p=0.1, seed=5, max_tokens=11), [1, 8, 1]),
        (replace(GREEDY, repeat_penalty=1.5), []),
        (SamplingParams(temperature=1.2, top_k=0, top_p=0.9, seed=4, max_tokens=20), []),
    ],
)
def test_replies_of_a_chat_equal_single_steps(
    loaded: llmcli.LoadedModel, params: SamplingParams, bursts: list[int]
) -> None:
    ours, step, theirs = pair(loaded, context=90)
    ids = PROMPT
    for turn in range(3):
        step.bursts.clear()
        mine, yours = reply(ours, ids, params), reply(theirs, ids, params)
        assert outcome(mine) == outcome(yours)
        assert step.bursts == bursts
        ids = [*ids, *(event.id for event in mine if isinstance(event, Step)), *random_ids(3, seed=turn)]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("speculative", [False, True])
def test_filters_that_the_kernel_does_not_support_still_apply(
    loaded: llmcli.LoadedModel, name: str, speculative: bool
) -> None:
    step = CountingKernel(loaded)
    speculation = SpeculationState(lookup=True, tokens=3) if speculative else None
    engine = Engine(loaded.model, loaded.tokenizer, step=step, speculation=speculation, multi_step_s=PATIENT_S)
    plain = Engine(loaded.model, loaded.tokenizer)
    off = SamplingParams(temperature=1.5, seed=3, max_tokens=24)
    params = replace(off, **FILTERS[name])  # type: ignore[arg-type]
    ids = [*PROMPT, *PROMPT]

    def said(engine: Engine, params: SamplingParams, *, probabilities: bool) -> list[int]:
        events = engine.stream(ids, params, probabilities=probabilities)
        return [event.id for event in events if isinstance(event, Step)]

    expected = said(plain, params, probabilities=True)
    assert expected != said(plain, off, probabilities=True)
    for probabilities in (False, True):
        assert said(engine, params, probabilities=probabilities) == expected
    assert step.bursts == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no signal that means nothing")
def test_signals_do_not_change_a_reply(loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "alarm", alarm_with_signal)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        ours, step, theirs = pair(loaded)
        params = SamplingParams(temperature=1.5, seed=3, max_tokens=20)
        assert outcome(reply(ours, PROMPT, params)) == outcome(reply(theirs, PROMPT, params))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert step.bursts == [1] * 19


@pytest.mark.parametrize(
    ("says", "stop", "bursts"),
    [(b"abcdef", (), [1, 5]), (b"abcdef", ("cd",), [1, 5]), (b"ab", (), [1, 1]), (b"a", (), [1]), (b"", (), [])],
)
def test_a_stop_token_or_string_ends_a_reply(
    says: bytes, stop: tuple[str, ...], bursts: list[int], tmp_path: Path
) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(says)), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0, stop=stop)
    mine, yours = reply(ours, [65, ASSISTANT], params), reply(theirs, [65, ASSISTANT], params)
    assert outcome(mine) == outcome(yours)
    assert step.bursts == bursts
    # Tokens after the end are dropped from the cache: the next reply is as after single steps.
    again = [65, ASSISTANT, *(event.id for event in mine if isinstance(event, Step)), 66, ASSISTANT]
    assert outcome(reply(ours, again, params))[2:5] == outcome(reply(theirs, again, params))[2:5]


def test_stop_ids_outside_the_vocabulary_are_ignored(loaded: llmcli.LoadedModel) -> None:
    params = SamplingParams(temperature=1.5, seed=3, max_tokens=20)
    # Cut to 32 bits, the first ids would be all tokens of the vocabulary.
    ours, step, theirs = pair(loaded, stops=[*range(1 << 32, (1 << 32) + 256), 1 << 70, -1])
    assert outcome(reply(ours, PROMPT, params)) == outcome(reply(theirs, PROMPT, params))
    assert step.bursts == [1, 8, 8, 2]


def test_the_context_ends_a_reply(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abc"), context=20), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert outcome(reply(ours, [ASSISTANT], params)) == outcome(reply(theirs, [ASSISTANT], params))
    assert step.bursts == [1, 8, 8, 1]


def test_slow_passes_return_one_token_each(loaded: llmcli.LoadedModel) -> None:
    ours, step, _ = pair(loaded, multi_step_s=0.0)
    reply(ours, PROMPT, GREEDY)
    assert step.bursts == [1] * 11


def test_probabilities_do_not_change_the_tokens_of_a_seed(loaded: llmcli.LoadedModel) -> None:
    params = SamplingParams(temperature=1.5, seed=7, max_tokens=15)
    ours, step, _ = pair(loaded)
    texts = []
    for probabilities in (True, False):
        events = list(ours.stream(PROMPT, params, probabilities=probabilities))
        assert bool(step.bursts) is not probabilities
        texts.append([event.id for event in events if isinstance(event, Step)])
    # A seed gives the same text with and without probabilities.
    assert texts[0] == texts[1]


def test_ctrl_c_ends_a_burst_and_the_cache_stays_valid(loaded: llmcli.LoadedModel) -> None:
    ours, step, theirs = pair(loaded)

    def press_ctrl_c() -> None:
        if len(step.bursts) == 2:
            signal.raise_signal(signal.SIGINT)

    step.before = press_ctrl_c
    check_interrupted(ours, theirs, said=2)


def test_an_abandoned_reply_leaves_the_cache_valid(loaded: llmcli.LoadedModel) -> None:
    ours, _, theirs = pair(loaded)
    check_abandoned(ours, theirs)


def test_closing_a_reply_late_does_not_disturb_the_next(tmp_path: Path) -> None:
    model = tiny_model("mistral", eos_token_id=None, sliding_window=7, max_position_embeddings=500)
    ours, _, theirs = pair(llmcli.load(save(model, tmp_path), device="cpu", dtype="float32"))
    check_closed_late(ours, theirs)


def test_longrope_and_a_hook_attached_during_a_reply(tmp_path: Path) -> None:
    model_type, overrides = CASES["phi-3, longrope, long"]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert outcome(reply(ours, PROMPT, params)) == outcome(reply(theirs, PROMPT, params))
    assert 8 in step.bursts
    steps = 0
    for event in ours.stream(PROMPT, replace(params, max_tokens=12), probabilities=False):
        steps += isinstance(event, Step)
        if steps == 4:
            hook = loaded.model.norm.register_forward_hook(lambda *_: None)
            step.bursts.clear()
            break
    mine = reply(ours, PROMPT, replace(params, max_tokens=12))
    hook.remove()
    assert not step.bursts
    assert outcome(mine)[2] == outcome(reply(theirs, PROMPT, replace(params, max_tokens=12)))[2]


def test_nan_logits_are_an_error_and_the_next_reply_is_correct(loaded: llmcli.LoadedModel) -> None:
    ours, step, theirs = pair(loaded)
    scale = loaded.model.get_parameter("norm.weight")
    kept = scale.detach().clone()

    def spoil() -> None:
        scale.data.fill_(torch.nan)

    step.before = spoil
    with pytest.raises(LlmcliError, match="not a number"):
        reply(ours, PROMPT, GREEDY)
    # The first call chooses one token, the second only -1 for logits that are not finite.
    assert step.bursts == [1, 1]
    scale.data.copy_(kept)
    step.before = lambda: None
    assert outcome(reply(ours, PROMPT, GREEDY))[2:4] == outcome(reply(theirs, PROMPT, GREEDY))[2:4]


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.7, seed=2)])
@pytest.mark.parametrize("text", [b"abcdefghij", b"ab"])
def test_lookup_alternates_with_multi_step_decoding(params: SamplingParams, text: bytes, tmp_path: Path) -> None:
    """Repeated text is proposed by lookup, and other tokens come from multi-step calls."""
    loaded = llmcli.load(write_puppet(tmp_path, loop(text), context=80), device="cpu", dtype="float32")
    step, plain = CountingKernel(loaded), ForwardOnlyKernel(loaded)
    ours, theirs = (
        Engine(
            loaded.model,
            loaded.tokenizer,
            context_length=80,
            step=each,
            speculation=speculation,
            multi_step_s=PATIENT_S,
        )
        for each, speculation in ((step, SpeculationState(lookup=True, tokens=4)), (plain, None))
    )
    params = replace(params, max_tokens=None)
    for prompt in ([ASSISTANT], [65, ASSISTANT], [*b"abab", ASSISTANT]):
        mine, yours = reply(ours, prompt, params), reply(theirs, prompt, params)
        assert [e.id for e in mine if isinstance(e, Step)] == [e.id for e in yours if isinstance(e, Step)]
        assert isinstance(mine[-1], Finish) and isinstance(yours[-1], Finish)
        assert mine[-1].reason == yours[-1].reason and mine[-1].stats.accepted_tokens
    assert max(step.bursts) == 4
