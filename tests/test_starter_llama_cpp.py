"""The starter model beside llama.cpp, an implementation that shares no code with ours: same ids, same expectations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import llmcli

TOKENS = 1000


@pytest.mark.starter
def test_perplexity_and_first_choices_are_those_of_llama_cpp() -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra bench) is not installed")
    ours = llmcli.load(dtype="float32")
    # A text that will not change.
    ids = ours.tokenizer.encode((Path(__file__).parents[1] / "LICENSE").read_text())[:TOKENS]
    theirs = llama_cpp.Llama(str(ours.source), n_ctx=1024, n_batch=512, logits_all=True, verbose=False)
    try:
        theirs.reset()
        theirs.eval(ids)
        expected = torch.from_numpy(theirs.scores[: len(ids)]).clone()
    finally:
        theirs.close()
    found = ours.logits(ids)
    assert len(ids) == TOKENS and found.shape == expected.shape
    ours_is, theirs_is = (_perplexity(logits, ids) for logits in (found, expected))
    assert abs(ours_is / theirs_is - 1) < 0.005, (ours_is, theirs_is)
    agreement = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    assert agreement >= 0.95, agreement


def _perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    """exp of the mean surprise of each token but the first."""
    targets = torch.tensor(ids[1:])
    return math.exp(torch.nn.functional.cross_entropy(logits[:-1], targets))
