"""One seed gives one reply, whichever token source generates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import llmcli
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.batch.backend import BatchBackend
from llmcli.engine.batch.batch import Batch, Request
from llmcli.engine.batch.results import BatchReply
from llmcli.engine.choose_source import choose_source
from llmcli.engine.decoders.gpu_pipelined import PipelinedDecoder
from llmcli.engine.decoders.multi_step import MultiStepDecoder
from llmcli.engine.decoders.single_step import SingleStepDecoder
from llmcli.engine.decoders.token_source import TokenSource
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.speculative.decoder import SpeculationState, SpeculativeDecoder
from llmcli.engine.speculative.draft_model import DraftModel
from llmcli.kernels.base import StepCapabilities
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.loaded_model import LoadedModel
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

WORDS = random_ids(6, seed=1)
# Repeated, so that lookup finds matches.
PROMPT = [*WORDS, *random_ids(3, seed=2), *WORDS, *WORDS[:3]]
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0),
    "greedy, penalties": SamplingParams(temperature=0, repeat_penalty=1.3, presence_penalty=0.2),
    "greedy, repeat penalty": SamplingParams(temperature=0, repeat_penalty=1.3),
    "sampled": SamplingParams(temperature=1.5, top_k=40, top_p=0.9, min_p=0.02, seed=3),
    "sampled, penalties": SamplingParams(temperature=1.5, repeat_penalty=1.3, frequency_penalty=0.2, seed=4),
    "sampled, whole vocabulary": SamplingParams(temperature=0.9, top_k=0, top_p=1.0, seed=5),
}
SAMPLINGS = {name: replace(params, max_tokens=30) for name, params in SAMPLINGS.items()}


class DeviceStep(ReadableStep):
    """The readable model as a step that reads tokens on the device."""

    capabilities = StepCapabilities(device_tokens=True)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", eos_token_id=None)
    return llmcli.load(folder, device="cpu", dtype="float32")


def drafting(loaded: LoadedModel) -> SpeculationState:
    cache = PrefixCache(loaded.model, context_length=128, vocab_size=loaded.tokenizer.vocab_size)
    return SpeculationState(draft=DraftModel(cache), tokens=3)


def kernel(loaded: LoadedModel, speculation: SpeculationState | None = None) -> Engine:
    step = CpuStep(loaded.model, threads=1)
    return Engine(loaded.model, loaded.tokenizer, step=step, speculation=speculation, multi_step_s=1000.0)


# For each source: an engine, whether probabilities are requested, and the source for filters that it supports.
SOURCES: dict[str, tuple[Callable[[LoadedModel], Engine], bool, type]] = {
    "single step": (lambda it: Engine(it.model, it.tokenizer), False, SingleStepDecoder),
    "single step of the kernel, probabilities": (kernel, True, SingleStepDecoder),
    "multi-step": (kernel, False, MultiStepDecoder),
    "lookup": (lambda it: kernel(it, SpeculationState(lookup=True, tokens=4)), False, SpeculativeDecoder),
    "lookup, probabilities": (lambda it: kernel(it, SpeculationState(lookup=True, tokens=4)), True, SpeculativeDecoder),
    "draft": (lambda it: kernel(it, drafting(it)), False, SpeculativeDecoder),
    "pipelined": (lambda it: Engine(it.model, it.tokenizer, step=DeviceStep(it.model)), False, PipelinedDecoder),
}


def generate(engine: Engine, params: SamplingParams, *, probabilities: bool) -> tuple[list[int], str]:
    """Tokens and texts of two replies, the second of which continues the text of the first."""
    ids, text = list(PROMPT), ""
    for _ in range(2):
        *steps, finish = engine.stream(ids, params, probabilities=probabilities)
        assert isinstance(finish, Finish) and finish.reason == "length"
        said = [step for step in steps if isinstance(step, Step)]
        ids += [*(step.id for step in said), *WORDS[:2]]
        text += "".join(step.text for step in said) + finish.text
    return ids, text


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_tokens_of_single_steps_with_probabilities(
    loaded: LoadedModel, source: str, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_engine, probabilities, expected_source = SOURCES[source]
    params = SAMPLINGS[sampling]
    if source == "draft" and params.temperature:
        # Sampled proposals use random numbers too: the distribution is the same, the tokens of a seed are not.
        params = replace(params, temperature=0)
    reference = generate(Engine(loaded.model, loaded.tokenizer), params, probabilities=True)
    taken: list[TokenSource] = []

    def note(*arguments: object) -> TokenSource:
        taken.append(choose_source(*arguments))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr("llmcli.engine.engine.choose_source", note)
    assert generate(make_engine(loaded), params, probabilities=probabilities) == reference
    # If the fast path does not support a filter, single steps apply it.
    falls_back = {
        "multi-step": sampling not in ("greedy", "sampled"),
        "pipelined": sampling not in ("greedy", "greedy, repeat penalty", "sampled", "sampled, whole vocabulary"),
    }
    assert [type(one) for one in taken] == [SingleStepDecoder if falls_back.get(source) else expected_source] * 2
    if expected_source is SpeculativeDecoder and sampling == "greedy":
        assert all(one.stats()["proposed_tokens"] > 0 for one in taken)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [1, 3])
def test_rows_of_a_batch_give_the_text_of_single_steps(loaded: LoadedModel, sampling: str, size: int) -> None:
    params = SAMPLINGS[sampling]
    prompts = [PROMPT, WORDS, [*PROMPT, 7], PROMPT]
    engine = Engine(loaded.model, loaded.tokenizer)
    expected = []
    for prompt in prompts:
        *steps, finish = engine.stream(prompt, params)
        assert isinstance(finish, Finish)
        said = [step for step in steps if isinstance(step, Step)]
        expected.append(("".join(step.text for step in said) + finish.text, len(said), finish.reason))
    rows = BatchBackend(loaded.model, CpuStep(loaded.model, threads=1), size)
    replies = list(Batch(loaded.model, loaded.tokenizer, rows).run(Request(tuple(ids), params) for ids in prompts))
    assert [
        (reply.text, reply.generated_tokens, reply.finish_reason) for reply in replies if isinstance(reply, BatchReply)
    ] == expected
