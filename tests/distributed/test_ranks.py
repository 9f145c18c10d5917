"""A model split over real processes: the same replies, and one sentence when a rank is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.distributed.environment import Launched, rank_count
from llmcli.distributed.launch import TIMEOUT_VARIABLE
from llmcli.distributed.leader import LeadingTransformer
from llmcli.errors import RankError, UnsupportedModelError, UsageError
from llmcli.inspection.core.hooks import attention_of
from llmcli.model.parallel.split import Rank
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import shared_checkpoint

pytestmark = pytest.mark.slow

IDS = random_ids(30)
# Grouped heads, experts, latent attention, states that can only go back to marks.
FAMILIES = {name: {**CASES, **RECURRENT}[name] for name in ("llama 2, grouped", "mixtral", "deepseek v3", "qwen 3.5")}


def split(folder: Path, count: int = 2, *, pipeline: bool = False) -> llmcli.LoadedModel:
    tensor, layers = (1, count) if pipeline else (count, 1)
    return llmcli.load(folder, dtype="float32", device="cpu", tensor_parallel=tensor, pipeline_parallel=layers)


# Three stages of one layer each.
PIPELINES = [("llama 2, grouped", True), ("qwen 3.5", True)]


def processes(loaded: llmcli.LoadedModel) -> list[int]:
    assert isinstance(loaded.model, LeadingTransformer)
    return loaded.model.ranks.processes


def ended(loaded: llmcli.LoadedModel) -> None:
    assert isinstance(loaded.model, LeadingTransformer)
    loaded.model.ranks.end()


@pytest.fixture
def two_ranks() -> Iterator[llmcli.LoadedModel]:
    model_type, overrides = FAMILIES["llama 2, grouped"]
    loaded = split(shared_checkpoint(model_type, **overrides))
    yield loaded
    ended(loaded)


@pytest.mark.parametrize(("case", "pipeline"), [*((case, False) for case in FAMILIES), *PIPELINES])
def test_replies_and_chats_equal_those_of_one_process(case: str, pipeline: bool) -> None:
    model_type, overrides = FAMILIES[case]
    folder = shared_checkpoint(model_type, **overrides)
    whole = llmcli.load(folder, dtype="float32", device="cpu")
    parts = split(folder, 3 if pipeline else 2, pipeline=pipeline)
    try:
        logits = parts.logits(IDS)
        assert float((logits - whole.logits(IDS)).abs().max() / logits.abs().max()) < 2e-5
        replies = []
        for model in (whole, parts):
            chat = model.chat(temperature=0, max_tokens=12)
            replies.append([str(chat.send("One.")), str(chat.send("Two, please."))])
            replies[-1].append(str(model.generate("Three", temperature=1, seed=5, max_tokens=12)))
        assert replies[0] == replies[1]
    finally:
        ended(parts)


def test_a_cache_that_goes_back_is_followed_by_all_ranks(two_ranks: llmcli.LoadedModel) -> None:
    expected = two_ranks.logits(IDS)
    model, ids = two_ranks.model, torch.tensor([IDS])
    cache = model.new_cache()
    with torch.inference_mode():
        model(ids[:, :20], cache)
        other = cache.beginning(10)
        with cache.rereading(15):
            again = model(ids[:, 15:16], cache)[0, 0]
        cache.truncate(12)
        rest = model(ids[:, 12:], cache)[0]
        branch = model(ids[:, 10:], other)[0]
    assert float((again - expected[15]).abs().max()) < 1e-4
    assert float((rest - expected[12:]).abs().max()) < 1e-4
    assert float((branch - expected[10:]).abs().max()) < 1e-4


def test_a_killed_rank_is_named(two_ranks: llmcli.LoadedModel) -> None:
    (pid,) = processes(two_ranks)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankError, match="Rank 1 of 2 was killed by signal 9"):
        two_ranks.logits(IDS)


def test_attention_of_a_split_model_is_refused(two_ranks: llmcli.LoadedModel) -> None:
    with pytest.raises(UnsupportedModelError, match="split over ranks"):
        attention_of(two_ranks.model, 0)


def test_a_second_split_model_is_refused(two_ranks: llmcli.LoadedModel) -> None:
    with pytest.raises(UsageError, match="already has a model that is split"):
        split(two_ranks.source)
    assert two_ranks.logits(IDS).isfinite().all()


def test_a_rank_that_does_not_answer_ends_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "8")
    model_type, overrides = FAMILIES["llama 2, grouped"]
    loaded = split(shared_checkpoint(model_type, **overrides))
    (pid,) = processes(loaded)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RankError, match="does not answer"):
        loaded.logits(IDS)
    ended(loaded)
    assert not Path(f"/proc/{pid}").exists()


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    model_type, overrides = FAMILIES["llama 2, grouped"]
    folder = shared_checkpoint(model_type, **overrides)
    script = (
        "import llmcli, sys, time\n"
        f"m = llmcli.load({str(folder)!r}, dtype='float32', device='cpu', tensor_parallel=2)\n"
        "print(*m.model.ranks.processes, flush=True)\n"
        "time.sleep(600)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    with program.stdout as output:
        pid = int(output.readline())
        program.kill()
        program.wait()
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the other rank still runs")


def test_edits_and_too_many_ranks_are_refused() -> None:
    model_type, overrides = FAMILIES["llama 2, grouped"]
    with pytest.raises(UnsupportedModelError, match="cannot be split over 5 ranks"):
        split(shared_checkpoint(model_type, **overrides), 5)


def test_variables_of_a_launcher() -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert Launched.of({}) is None
    assert Launched.of({"WORLD_SIZE": "1"}) is None
    assert Launched.of(variables) == Launched(Rank(1, 4), 1, 4, "127.0.0.1", 29500)
    assert (rank_count(1, variables), rank_count(2, variables), rank_count(1, {})) == (4, 2, 1)
    with pytest.raises(UsageError, match="RANK"):
        Launched.of({"WORLD_SIZE": "2"})
