"""DRY gives the penalties of its formula, and sequence breakers end repetitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llmcli
from llmcli.engine import SamplingParams
from llmcli.engine.sampling.filters.dry import dry_penalized, repetitions
from llmcli.engine.sampling.sampler import sampler_for
from llmcli.engine.sampling.sequence_breakers import sequence_breakers
from llmcli.errors import UsageError
from tests.support.models.puppet import chain, write_puppet


def by_definition(context: list[int], breakers: set[int], most: int) -> dict[int, int]:
    """For each token the length of the longest suffix of the context that precedes an earlier occurrence of it."""
    found: dict[int, int] = {}
    for at in range(1, len(context)):
        for length in range(1, min(at, most) + 1):
            match = context[at - length : at]
            if match != context[len(context) - length :] or breakers & {*match, context[at]}:
                break
            found[context[at]] = max(length, found.get(context[at], 0))
    return found


@given(
    context=st.lists(st.integers(0, 3), max_size=25),
    breakers=st.sets(st.integers(0, 3), max_size=2),
    most=st.sampled_from([1, 3, 100]),
)
def test_repetitions_agree_with_a_direct_search(context: list[int], breakers: set[int], most: int) -> None:
    assert repetitions(context, breakers, most=most) == by_definition(context, breakers, most)


def test_a_longer_repetition_costs_more() -> None:
    # After 1 2 3 came 4, after 2 3 came 5, after 3 came 6.
    context = [1, 2, 3, 4, 0, 2, 3, 5, 0, 3, 6, 1, 2, 3]
    logits = torch.zeros(8)
    found = dry_penalized(logits, context, (), multiplier=0.8, base=1.75, allowed_length=2)
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 0, -0.8 * 1.75, -0.8, 0, 0]))
    # If 2 breaks sequences, only the 3 repeats, which is shorter than the allowed length.
    assert torch.equal(dry_penalized(logits, context, {2}, multiplier=0.8, base=1.75, allowed_length=2), logits)
    # A token that breaks sequences has no penalty itself.
    found = dry_penalized(logits, context, {4}, multiplier=0.8, base=1.75, allowed_length=2)
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 0, 0, -0.8, 0, 0]))


def test_the_longest_repetition_leaves_logits_finite() -> None:
    found = dry_penalized(torch.zeros(2), [1] * 3000, (), multiplier=1e6, base=4.0, allowed_length=1)
    assert float(found[0]) == 0 and -1e31 < float(found[1]) < -1e29


def test_sequence_breakers_are_all_tokens_that_contain_the_text(tmp_path: Path) -> None:
    tokenizer = llmcli.load(write_puppet(tmp_path, chain(b"ab"))).tokenizer
    found = sequence_breakers(tokenizer, ("\n", "*"))
    assert {tokenizer.token_bytes(token) for token in found} == {b"\n", b"*"}
    with pytest.raises(UsageError, match="'xyz' is in no token"):
        sequence_breakers(tokenizer, ("xyz",))


@pytest.mark.parametrize(("last_n", "repeats"), [(-1, False), (0, True), (4, True), (6, False)])
def test_the_sampler_applies_it_to_the_last_tokens(tmp_path: Path, last_n: int, repeats: bool) -> None:
    tokenizer = llmcli.load(write_puppet(tmp_path, chain(b"ab"))).tokenizer
    params = SamplingParams(temperature=0, dry_multiplier=5.0, dry_penalty_last_n=last_n)
    logits = torch.zeros(tokenizer.vocab_size)
    logits[67], logits[70] = 2.0, 1.0
    context = [65, 66, 67, 68, 65, 66]
    assert sampler_for(params, tokenizer).choose(logits, context, greatest=(67, 2.0)) == (67 if repeats else 70)
