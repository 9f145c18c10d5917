"""Running out of memory during a reply is an `OutOfMemoryError`, and the next reply is correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.batch.batch import Request
from llmcli.engine.batch.results import BatchReply
from llmcli.errors import OutOfMemoryError
from llmcli.kernels.cpu.step import CpuStep
from llmcli.model import KVCache, Transformer
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

GREEDY = SamplingParams(temperature=0, max_tokens=6)
ERRORS = [MemoryError(), RuntimeError("std::bad_alloc"), torch.OutOfMemoryError("CUDA out of memory.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "model", "llama", eos_token_id=None)


def failing(error: Exception, original: Callable[..., Any], after: int) -> Callable[..., Any]:
    """`original`, which fails once, after `after` calls."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after + 1:
            raise error
        return original(*arguments, **options)

    return call


def places(fast: bool) -> list[tuple[type, str]]:
    return [(KVCache, "reserve"), (CpuStep, "forward") if fast else (Transformer, "forward")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("place", [0, 1])
def test_an_engine_raises_out_of_memory_and_stays_usable(
    error: Exception, after: int, fast: bool, place: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = llmcli.load(folder, device="cpu", dtype="float32")
    engine = loaded.engine() if fast else llmcli.engine.Engine(loaded.model, loaded.tokenizer)
    prompt = random_ids(20)
    expected = [event.id for event in engine.stream(prompt, GREEDY) if isinstance(event, Step)]
    # Another text, because a prompt that is cached whole is not read again.
    list(engine.stream(random_ids(20, seed=2), GREEDY))
    owner, name = places(fast)[place]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing(error, getattr(owner, name), after))
        with pytest.raises(OutOfMemoryError, match=rf"{20 + after} tokens.*--context"):
            list(engine.stream(prompt, GREEDY))
    again = list(engine.stream(prompt, GREEDY))
    assert [event.id for event in again if isinstance(event, Step)] == expected
    assert isinstance(again[-1], Finish)


def test_other_errors_are_not_translated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llmcli.load(folder, device="cpu").engine()
    monkeypatch.setattr(KVCache, "reserve", failing(RuntimeError("a mistake"), KVCache.reserve, 0))
    with pytest.raises(RuntimeError, match="a mistake"):
        list(engine.stream([1, 2], GREEDY))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("after", [0, 2])
def test_a_batch_raises_out_of_memory(fast: bool, after: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = llmcli.load(folder, device="cpu", dtype="float32")
    if not fast:
        loaded = replace(loaded, why_readable="to see")
    batch = loaded.batch_engine(parallel=2)
    owner, name = (CpuStep, "forward_rows_multi_step" if after else "forward") if fast else (Transformer, "forward")
    # Prompts are read first; one call of the kernel then chooses several tokens.
    monkeypatch.setattr(owner, name, failing(MemoryError(), getattr(owner, name), 0 if fast else after))
    requests = [Request(tuple(random_ids(9, seed=seed)), GREEDY) for seed in range(2)]
    with pytest.raises(OutOfMemoryError, match="enough memory for a text of"):
        assert all(isinstance(reply, BatchReply) for reply in batch.run(requests))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_command_ends_with_a_message_and_code_5(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also where no code checks for it.
    monkeypatch.setattr("llmcli.server.command_line.score.score", failing(error, len, 0))
    for command in (("score", "hello"), ("generate", "hello", "-n", 3)):
        if command[0] == "generate":
            monkeypatch.setattr(KVCache, "reserve", failing(error, KVCache.reserve, 0))
        result = llm(*command, "-m", folder, "--device", "cpu")
        message = result.stderr.decode()
        assert result.returncode == 5, message
        assert "not enough memory" in message
        assert "Traceback" not in message
