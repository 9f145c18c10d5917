"""Batched replies equal those generated alone, in the order of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import Finish, Interruption, SamplingParams, Step
from llmcli.engine.batch.backend import MOST_ROWS
from llmcli.engine.batch.batch import Batch, Request
from llmcli.engine.batch.results import BatchReply
from llmcli.engine.batch.row_steps import RowText
from llmcli.errors import LlmcliError, PromptTooLongError, UsageError
from llmcli.loaded_model import LoadedModel
from tests.support.models.puppet import ASSISTANT, chain, loop, write_puppet
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    loaded = llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama"), dtype="float32")
    if loaded.why_readable:
        pytest.skip(loaded.why_readable)
    return loaded


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = tiny_model("gemma2", sliding_window=20)
    loaded = llmcli.load(save(model, tmp_path_factory.mktemp("m")), dtype="float32")
    return replace(loaded, why_readable="for a test")


def requests(count: int = 16) -> list[Request]:
    """Prompts and limits of many lengths, greedy and sampled, some with a stop string."""
    return [
        Request(
            tuple(random_ids(1 + 5 * (n % 11), seed=n)),
            SamplingParams(
                temperature=0 if n % 3 else 1.0,
                seed=n,
                max_tokens=1 + 7 * n % 40,
                stop=tuple("abcdefghijklm") if n % 5 == 0 else (),
            ),
        )
        for n in range(count)
    ]


def alone(loaded: LoadedModel, request: Request, context: int | None = None) -> tuple[str, str, int]:
    events = list(loaded.engine(context_length=context).stream(request.ids, request.params, probabilities=False))
    finish = events[-1]
    assert isinstance(finish, Finish)
    steps = [event for event in events if isinstance(event, Step)]
    return "".join(step.text for step in steps) + finish.text, finish.reason, len(steps)


def together(batch: Batch, asked: Sequence[Request]) -> list[tuple[str, str, int]]:
    replies: list[tuple[str, str, int]] = []
    for reply, request in zip(batch.run(asked), asked, strict=True):
        assert isinstance(reply, BatchReply) and reply.prompt_tokens == len(request.ids)
        replies.append((reply.text, reply.finish_reason, reply.generated_tokens))
    return replies


@pytest.mark.parametrize("which", ["kernel", "readable"])
@pytest.mark.parametrize("parallel", [1, 3, None])
def test_replies_equal_those_of_an_engine(request: pytest.FixtureRequest, which: str, parallel: int | None) -> None:
    loaded: LoadedModel = request.getfixturevalue(which)
    batch = loaded.batch_engine(parallel=parallel)
    asked = requests()
    expected = [alone(loaded, one) for one in asked]
    assert {reason for _, reason, _ in expected} >= {"length", "stop_string"}
    assert together(batch, asked) == expected
    stats = batch.stats
    assert (stats.replies, stats.prompt_tokens) == (len(asked), sum(len(one.ids) for one in asked))
    assert stats.generated_tokens == sum(count for _, _, count in expected)
    named = "cpu kernel" if which == "kernel" else "readable model, cpu, float32 (for a test)"
    size = batch.parallel
    assert size == ((parallel or MOST_ROWS) if which == "kernel" else 1)
    assert stats.path.startswith(named) and stats.path.endswith(f"{size} texts at a time") == (size > 1)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_bfloat16_replies_of_the_readable_model_equal_those_of_an_engine(tmp_path: Path, family: str) -> None:
    loaded = replace(llmcli.load(tiny_checkpoint(tmp_path, family), dtype="bfloat16"), why_readable="for a test")
    asked = requests()
    assert together(loaded.batch_engine(), asked) == [alone(loaded, one) for one in asked]


@pytest.mark.parametrize("which", ["kernel", "readable"])
def test_a_full_context_and_prompts_too_long(request: pytest.FixtureRequest, which: str) -> None:
    loaded: LoadedModel = request.getfixturevalue(which)
    params = SamplingParams(temperature=0)
    asked = [Request(tuple(random_ids(n, seed=n)), params) for n in (3, 20, 12, 19)]
    replies = list(loaded.batch_engine(parallel=2, context_length=20).run(asked))
    assert isinstance(replies[1], PromptTooLongError) and "1 too long" in str(replies[1])
    for index in (0, 2, 3):
        reply = replies[index]
        assert isinstance(reply, BatchReply)
        assert (reply.text, reply.finish_reason, reply.generated_tokens) == alone(loaded, asked[index], 20)
    with pytest.raises(UsageError, match="made for up to 128"):
        loaded.batch_engine(context_length=129)
    for size in (0, MOST_ROWS + 1):
        with pytest.raises(UsageError, match="From 1 to"):
            loaded.batch_engine(parallel=size)


@pytest.mark.parametrize("readable_too", [False, True])
def test_texts_with_dynamic_rope_have_the_replies_of_an_engine(tmp_path: Path, readable_too: bool) -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = tiny_model("llama", rope_parameters=scaling, max_position_embeddings=64)
    loaded = llmcli.load(save(model, tmp_path), dtype="float32")
    if readable_too:
        loaded = replace(loaded, why_readable="for a test")
    asked = [Request(tuple(random_ids(n, seed=n)), SamplingParams(temperature=0)) for n in (40, 61, 3)]
    assert together(loaded.batch_engine(), asked) == [alone(loaded, one) for one in asked]


def test_requests_are_consumed_lazily_and_errors_pass_through(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abc")), dtype="float32")
    taken = []

    def asked() -> Iterator[Request | LlmcliError]:
        for number in range(100):
            taken.append(number)
            # The first takes longest: finished replies wait for it, but only a limited number.
            limit = 60 if number == 0 else 1
            yield (
                UsageError("no request")
                if number == 1
                else Request((ASSISTANT,), SamplingParams(temperature=0, max_tokens=limit))
            )

    replies = loaded.batch_engine(parallel=2).run(asked())
    first = next(replies)
    assert isinstance(first, BatchReply) and first.text == "abc" * 20
    assert len(taken) <= 2 * 4 + 1
    assert str(next(replies)) == "no request"
    assert [reply.text for reply in replies if isinstance(reply, BatchReply)] == ["a"] * 98
    assert taken == list(range(100))


def test_an_interruption_drops_unfinished_replies(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abc")), dtype="float32")
    interruption = Interruption()
    limits = (1, 2, 50, 1, 1)
    asked = [Request((ASSISTANT,), SamplingParams(temperature=0, max_tokens=limit)) for limit in limits]
    replies = []
    for reply in loaded.batch_engine(parallel=2).run(asked, interruption):
        replies.append(reply)
        if len(replies) == 2:
            interruption.request()
    assert [reply.text for reply in replies if isinstance(reply, BatchReply)] == ["a", "ab"]
    # An interruption during a pass takes effect at once.
    batch = loaded.batch_engine(parallel=2)
    broken = Interruption()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch._steps, "next", lambda texts: broken.request())
        assert [reply.text for reply in batch.run(asked, broken) if isinstance(reply, BatchReply)] == ["a"]


@pytest.mark.parametrize("of_kernel", [True, False])
def test_nan_logits_of_one_text_do_not_end_the_others(tmp_path: Path, of_kernel: bool) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, chain(b"abc")), dtype="float32")
    batch = loaded.batch_engine(parallel=3)
    following = batch._steps.next

    def broken(texts: Sequence[RowText]) -> list[list[int] | torch.Tensor]:
        found = following(texts)
        if len(texts) == 3:
            found[1] = [-1] if of_kernel else torch.full((300,), torch.nan)
        return found

    asked = [Request((ASSISTANT,), SamplingParams(temperature=0))] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch._steps, "next", broken)
        replies = list(batch.run(asked))
    assert [reply.text if isinstance(reply, BatchReply) else str(reply)[:31] for reply in replies] == [
        "abc",
        "The model's output is not a num",
        "abc",
    ]
