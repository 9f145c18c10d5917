"""`llm inspect state`: flags that belong together; its views are tested in `tests/inspection/recurrent`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.mark.parametrize("flags", [("-n", "3"), ("--answer", " b")])
def test_flags_of_an_answer_need_words_to_hide(tmp_path: Path, flags: tuple[str, str]) -> None:
    model_type, overrides = RECURRENT["rwkv 4"]
    model = tiny_checkpoint(tmp_path, model_type, **overrides)
    refused = llm("inspect", "state", "a cat", "-m", model, *flags)
    assert refused.returncode == 2 and not refused.stdout
    assert "needs --hide: without it no answer is measured." in refused.stderr.decode()
    measured = llm("inspect", "state", "a cat", "-m", model, "--hide", "cat", *flags)
    assert measured.returncode == 0, measured.stderr
    both = llm("inspect", "state", "a cat", "-m", model, "--hide", "cat", "-n", "3", "--answer", " b")
    assert both.returncode == 2 and "--answer is measured to its end" in both.stderr.decode()
