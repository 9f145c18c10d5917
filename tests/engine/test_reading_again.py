"""Logits of an earlier reply: those its tokens were chosen from, without effect on later replies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.engine import Engine, SamplingParams, Step
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

GREEDY, DRAWN = SamplingParams(temperature=0, max_tokens=40), SamplingParams(temperature=0.9, seed=7, max_tokens=40)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    """A model with 4-bit block-quantized weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "max_position_embeddings": 512}
    path = tmp_path_factory.mktemp("m") / "model.gguf"
    return llmcli.load(write_gguf(made("llama 3.1", **sizes), path, kind_of=quantized(Kind.Q4_1)), device="cpu")


def reply(engine: Engine, prompt: list[int], params: SamplingParams) -> tuple[list[int], list[float | None]]:
    """Ids and log-probabilities of a reply."""
    steps = [event for event in engine.stream(prompt, params) if isinstance(event, Step)]
    return [step.id for step in steps], [step.logprob for step in steps]


def read_again(engine: Engine, prompt: list[int], ids: list[int], at: int) -> float:
    """The log-probability of token `at` of the reply `ids`."""
    logits = engine.next_logits([*prompt, *ids[:at]], prompt=len(prompt))
    return float(logits.float().log_softmax(-1)[ids[at]])


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("readable", [False, True])
def test_logits_of_a_reply_do_not_change_the_next_reply(
    packed: llmcli.LoadedModel, params: SamplingParams, readable: bool
) -> None:
    def made_engine() -> Engine:
        return Engine(packed.model, packed.tokenizer) if readable else packed.engine(lookup=None)

    engine, other = made_engine(), made_engine()
    prompt = random_ids(20)
    for turn in range(3):
        ids, own = reply(engine, prompt, params)
        assert (ids, own) == reply(other, prompt, params)
        # From the end, the beginning, and in between: the order of requests must not matter.
        for at in (len(ids) - 1, 0, 5, 1, len(ids) - 2):
            assert read_again(engine, prompt, ids, at) == own[at]
        prompt += [*ids, *random_ids(7, seed=turn)]


def test_logits_of_a_text_that_is_not_cached(packed: llmcli.LoadedModel) -> None:
    prompt = random_ids(20)
    ids, own = reply(packed.engine(), prompt, GREEDY)
    reported: list[tuple[int, int]] = []
    for at in (0, 1, 17, 38):
        text = [*prompt, *ids[:at]]
        logits = packed.engine().next_logits(
            text, prompt=20, progress=lambda done, total: reported.append((done, total))
        )
        read = float(logits.float().log_softmax(-1)[ids[at]])
        assert read == own[at] if not packed.why_readable else read == pytest.approx(own[at], abs=1e-4)
        assert reported[-1] == (len(text), len(text))


def test_logits_before_the_current_sliding_window(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path, "mistral", sliding_window=16, max_position_embeddings=1024)
    loaded = llmcli.load(checkpoint, dtype="float32", device="cpu")
    endless = replace(loaded, declared_stop_ids={})
    engine, other = endless.engine(chat=False), endless.engine(chat=False)
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=450)
    prompt = random_ids(20)
    ids, own = reply(engine, prompt, params)
    assert (ids, own) == reply(other, prompt, params)
    assert len(ids) == 450
    for at in (len(ids) - 1, len(ids) - 30, 5, 0, len(ids) - 2):
        # Tokens that have left the window are read into another cache.
        assert read_again(engine, prompt, ids, at) == pytest.approx(own[at], abs=1e-5)
    longer = [*prompt, *ids, *random_ids(9)]
    assert reply(engine, longer, params) == reply(other, longer, params)


def test_logits_of_the_first_token(packed: llmcli.LoadedModel) -> None:
    engine = packed.engine()
    ids, own = reply(engine, [65], GREEDY)
    assert read_again(engine, [65], ids, 0) == own[0]
    assert engine.next_logits([66]).shape == (packed.tokenizer.vocab_size,)
    assert read_again(engine, [65], ids, 1) == own[1]
