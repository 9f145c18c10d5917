"""Computing the attention of a reply, and the partial result after an interrupt or an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import llmcli
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.token_report import read_attention
from llmcli.engine import Step
from llmcli.errors import OutOfMemoryError
from llmcli.inspection.attention.reply import ReplyAttention
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama"), dtype="float32", device="cpu")


def steps(logprob: float | None = None) -> list[Step]:
    return [Step(at, token, "", logprob=logprob) for at, token in enumerate(IDS[4:])]


def test_attention_is_not_computed_unless_requested(loaded: llmcli.LoadedModel) -> None:
    said = steps()
    assert read_attention(loaded, [], IDS[:4], said, ReportOptions(probs=True)).steps is said
    looked = read_attention(loaded, [], IDS[:4], said, ReportOptions(attention=True))
    assert [step.attention.position if step.attention else None for step in looked.steps] == [3, 4, 5, 6]
    assert [step.id for step in looked.steps] == IDS[4:]


def test_different_probabilities_of_the_readable_model_are_noted(
    loaded: llmcli.LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    for logprob, told in ((None, False), (-0.01, True)):
        looked = read_attention(loaded, [], IDS[:4], steps(logprob), ReportOptions(attention=True))
        assert ("4 of 4 tokens" in capsys.readouterr().err) is told
        assert [step.logprob for step in looked.steps] == [logprob] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutOfMemoryError("no room")])
def test_an_interrupted_pass_keeps_the_attention_so_far(
    loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    read = ReplyAttention.read

    def ending(self: ReplyAttention, progress: Callable[[int, int], None]) -> None:
        read(self, progress)
        del self.rows[2:]
        raise error

    monkeypatch.setattr(ReplyAttention, "read", ending)
    looked = read_attention(loaded, [], IDS[:4], steps(), ReportOptions(attention=True))
    assert [step.attention is not None for step in looked.steps] == [True, True, False, False]
    assert (looked.interrupted, looked.error) == (
        (True, None) if isinstance(error, KeyboardInterrupt) else (False, error)
    )
