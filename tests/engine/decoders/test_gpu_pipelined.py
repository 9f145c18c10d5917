"""Replies that go on before their tokens are seen are the replies that wait for each, whatever ends them."""

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
from tests.support.replies import GREEDY, PROMPT, check_abandoned, check_closed_late, check_interrupted, reply, told
from tests.support.sampling_filters import FILTERS


class Watched(ReadableStep):
    """The readable model as a step, whose passes are counted."""

    capabilities = StepCapabilities(device_tokens=True)

    def __init__(self, loaded: llmcli.LoadedModel) -> None:
        super().__init__(loaded.model)
        self.unseen = self.others = 0
        self.before: Callable[[], None] = lambda: None

    def forward(self, ids: object, cache: KVCache, *, only_last: bool = True) -> Tensor:
        self.others += 1
        return super().forward(ids, cache, only_last=only_last)  # type: ignore[arg-type]

    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        self.unseen += 1
        logits = super().forward_device_token(token, cache)
        self.before()
        return logits


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", eos_token_id=None)
    return llmcli.load(folder, device="cpu", dtype="float32")


def pair(loaded: llmcli.LoadedModel, context: int | None = None) -> tuple[Engine, Watched, Engine]:
    """An engine that draws, its step, and one that waits."""
    step = Watched(loaded)
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
def test_turns_of_a_talk_are_the_same(loaded: llmcli.LoadedModel, params: SamplingParams) -> None:
    ours, step, theirs = pair(loaded, context=70)
    ids = PROMPT
    for turn in range(3):
        mine, yours = reply(ours, ids, params), reply(theirs, ids, params)
        assert told(mine) == told(yours)
        ids = [*ids, *(event.id for event in mine if isinstance(event, Step)), *random_ids(3, seed=turn)][:60]
        # One pass for each token but the first, which the prompt gives: none was made in vain.
        assert step.unseen == sum(isinstance(event, Step) for event in mine) - 1
        step.unseen = 0


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_the_device_does_not_know_holds_all_the_same(loaded: llmcli.LoadedModel, name: str) -> None:
    ours, step, theirs = pair(loaded)
    off = SamplingParams(temperature=1.5, seed=3, max_tokens=24)
    params = replace(off, **FILTERS[name])  # type: ignore[arg-type]
    ids = [*PROMPT, *PROMPT]
    assert told(reply(ours, ids, params)) == told(mine := reply(theirs, ids, params))
    assert [e.id for e in mine if isinstance(e, Step)] != [e.id for e in reply(theirs, ids, off) if isinstance(e, Step)]
    assert step.unseen == 0


@pytest.mark.parametrize(
    ("says", "stop", "wasted"),
    [(b"abcdef", (), 1), (b"abcdef", ("cd",), 1), (b"abcdef", ("xy", "f"), 1), (b"a", (), 1), (b"", (), 0)],
)
def test_what_ends_a_reply_is_met_one_pass_late(
    says: bytes, stop: tuple[str, ...], wasted: int, tmp_path: Path
) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(says)), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0, stop=stop)
    mine, yours = reply(ours, [65, ASSISTANT], params), reply(theirs, [65, ASSISTANT], params)
    assert told(mine) == told(yours)
    seen = sum(isinstance(event, Step) for event in mine) + (not stop)
    assert step.unseen == seen - 1 + wasted
    # What was read in vain is forgotten: the text goes on as after any other reply.
    again = [65, ASSISTANT, *(event.id for event in mine if isinstance(event, Step)), 66, ASSISTANT]
    mine, yours = reply(ours, again, params), reply(theirs, again, params)
    assert told(mine)[2:5] == told(yours)[2:5]
    assert isinstance(mine[0], Prefill) and isinstance(yours[0], Prefill)
    # After a stop string its last token has been read already, and need not be read again.
    assert mine[0].cached == yours[0].cached + bool(stop)


def test_a_pass_is_made_before_the_token_it_reads_is_seen(loaded: llmcli.LoadedModel) -> None:
    ours, step, _ = pair(loaded)
    made = [step.unseen for event in ours.stream(PROMPT, GREEDY, probabilities=False) if isinstance(event, Step)]
    assert made == [0, *range(2, 12), 11]


def test_the_context_ends_a_reply(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abc"), context=20), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert told(reply(ours, [ASSISTANT], params)) == told(reply(theirs, [ASSISTANT], params))
    assert step.unseen == 18


@pytest.mark.parametrize("probabilities", [True, False])
def test_whoever_wants_logits_gets_them(loaded: llmcli.LoadedModel, probabilities: bool) -> None:
    params = SamplingParams(temperature=1.5, top_k=0, seed=7, max_tokens=15)
    ours, step, theirs = pair(loaded)
    mine = list(ours.stream(PROMPT, params, probabilities=probabilities))
    assert (step.unseen > 0) is not probabilities
    # The seed gives the same text whether anyone looks or not.
    yours = reply(theirs, PROMPT, params)
    assert [e.id for e in mine if isinstance(e, Step)] == [e.id for e in yours if isinstance(e, Step)]


def test_ctrl_c_breaks_into_a_pass_and_the_cache_stays_sound(loaded: llmcli.LoadedModel) -> None:
    ours, step, theirs = pair(loaded)

    def strike() -> None:
        if step.unseen == 5:
            signal.raise_signal(signal.SIGINT)

    step.before = strike
    # The fifth pass was for the token after the one that would have been seen next.
    check_interrupted(ours, theirs, said=4)


def test_a_reply_that_nobody_hears_to_its_end(loaded: llmcli.LoadedModel) -> None:
    ours, _, theirs = pair(loaded)
    check_abandoned(ours, theirs)


def test_a_reply_that_is_closed_when_another_has_begun(tmp_path: Path) -> None:
    model = tiny_model("mistral", eos_token_id=None, sliding_window=7, max_position_embeddings=500)
    ours, _, theirs = pair(llmcli.load(save(model, tmp_path), device="cpu", dtype="float32"))
    check_closed_late(ours, theirs)


def test_a_text_with_long_rotations_and_a_hook_attached_during_a_reply(tmp_path: Path) -> None:
    from tests.support.models.parity_cases import CASES

    model_type, overrides = CASES["phi-3, longrope, long"]
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), device="cpu", dtype="float32")
    ours, step, theirs = pair(loaded)
    params = SamplingParams(temperature=0)
    assert told(reply(ours, PROMPT, params)) == told(reply(theirs, PROMPT, params))
    # Only the prompt was read by the plain forward: the rotations stay as they are for the whole reply.
    assert step.unseen and step.others == 1
    steps = 0
    for event in ours.stream(PROMPT, replace(params, max_tokens=12), probabilities=False):
        steps += isinstance(event, Step)
        if steps == 4:
            hook, unseen = loaded.model.norm.register_forward_hook(lambda *_: None), step.unseen
            break
    mine = reply(ours, PROMPT, replace(params, max_tokens=12))
    hook.remove()
    assert step.unseen == unseen
    assert told(mine)[2] == told(reply(theirs, PROMPT, replace(params, max_tokens=12)))[2]


def test_output_that_is_no_number_is_an_error_and_the_next_reply_is_sound(loaded: llmcli.LoadedModel) -> None:
    class Broken(Watched):
        def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
            logits = super().forward_device_token(token, cache)
            return logits.fill_(torch.nan) if self.unseen == 4 else logits

    engine = Engine(loaded.model, loaded.tokenizer, step=Broken(loaded))
    with pytest.raises(LlmcliError, match="not a number"):
        reply(engine, PROMPT, GREEDY)
    _, _, theirs = pair(loaded)
    assert told(reply(engine, PROMPT, GREEDY))[2:4] == told(reply(theirs, PROMPT, GREEDY))[2:4]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_recorded_pass_draws_too(loaded: llmcli.LoadedModel, seed: int) -> None:
    engine = Engine(loaded.model, loaded.tokenizer, step=GraphStep(loaded.model, ""))
    params = SamplingParams(temperature=1.5, seed=seed, max_tokens=10)
    _, _, theirs = pair(loaded)
    assert told(reply(engine, PROMPT, params))[2:4] == told(reply(theirs, PROMPT, params))[2:4]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "params",
    [replace(GREEDY, repeat_penalty=1.5), *(SamplingParams(temperature=1.5, top_k=k, seed=3) for k in (0, 40))],
)
def test_a_gpu_says_the_same_whether_anyone_looks(params: SamplingParams, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama", eos_token_id=None)
    engine = llmcli.load(folder, device="cuda", dtype="float32").engine()
    texts = []
    for probabilities in (True, False, False):
        events = list(engine.stream(PROMPT, params, probabilities=probabilities))
        assert isinstance(events[-1], Finish) and "CUDA graph" in events[-1].stats.path
        texts.append([event.id for event in events if isinstance(event, Step)])
    assert texts[0] == texts[1] == texts[2]
