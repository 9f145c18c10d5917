"""Plans of a model on several GPUs, from the headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.split_plan import RESERVED, Cards, parse_cards, ranges, split_plan
from llmcli.errors import OutOfMemoryError, UnsupportedModelError, UsageError
from llmcli.sizes import size
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model() -> Path:
    return shared_checkpoint(
        "llama", hidden_size=256, intermediate_size=4096, num_attention_heads=8, num_key_value_heads=8,
        num_hidden_layers=2, max_position_embeddings=4096,
    )  # fmt: skip


def test_descriptions_of_gpus() -> None:
    assert parse_cards("2x80GB") == Cards(2, 80 * 10**9)
    assert parse_cards("4x1.5GiB") == Cards(4, 3 << 29)
    for text in ("80GB", "0x80GB", "2x80", "2x80MB", "2 x 80GB", "2x0GB", "-1x80GB", ""):
        with pytest.raises(UsageError, match="as 2x80GB or auto"):
            parse_cards(text)
    assert [ranges([]), ranges([2, 3, 4, 8]), ranges([2])] == ["none", "2-4, 8", "2"]


def test_each_rank_needs_its_part_of_weights_and_cache(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    one, two = (split_plan(checkpoint, Cards(count, 80 * 10**9), context=1000, packing=None).needed for count in (1, 2))
    assert two.weights == pytest.approx(one.weights / 2, rel=0.01) and two.cache == one.cache // 2


def test_the_longest_context_is_the_longest_that_is_not_refused(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    needed = split_plan(checkpoint, Cards(2, 80 * 10**9), context=2048, packing=None).needed.total
    plan = split_plan(checkpoint, Cards(2, RESERVED + needed), context=100, packing=None)
    assert plan.longest_context == 2048
    with pytest.raises(OutOfMemoryError, match="and has"):
        split_plan(checkpoint, Cards(2, RESERVED + needed), context=2304, packing=None)
    with pytest.raises(UsageError, match="made for 4096 tokens"):
        split_plan(checkpoint, Cards(2, 80 * 10**9), context=5000, packing=None)


def test_what_would_fit_is_planned_without_an_error() -> None:
    # Many layers, so that the matrix that is unpacked at a time is small beside all.
    deep = shared_checkpoint(
        "llama", hidden_size=128, intermediate_size=512, num_attention_heads=8, num_key_value_heads=8,
        num_hidden_layers=24,
    )  # fmt: skip
    checkpoint = open_checkpoint(deep)
    needed = split_plan(checkpoint, Cards(2, 80 * 10**9), context=16, packing=None).needed
    memory = RESERVED + needed.total - needed.weights // 4
    with pytest.raises(OutOfMemoryError) as refused:
        split_plan(checkpoint, Cards(2, memory), context=16, packing=None)
    message = str(refused.value)
    assert f"each rank takes {size(needed.total)}" in message
    count = re.search(r"(\d+) of these GPUs", message)
    assert count is not None
    assert split_plan(checkpoint, Cards(int(count[1]), memory), context=16, packing=None).needed.total < needed.total
    assert "--quantize int8" in message
    split_plan(checkpoint, Cards(2, memory), context=16, packing="int8")


def test_numbers_of_ranks_that_are_not_possible_are_refused_with_those_that_are(model: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"split over 9 ranks\. Numbers that it can: 2-8\."):
        split_plan(open_checkpoint(model), Cards(9, 80 * 10**9), context=None, packing=None)


def test_the_command_shows_the_plan_or_says_what_would_fit(model: Path) -> None:
    shown = llm("show", model, "--plan", "2x80GB", "--context", 512)
    text = shown.stdout.decode()
    assert shown.returncode == 0 and "it fits" in text and "for 512 tokens" in text
    assert "ranks            2-8" in text and "H100 SXM" in text
    small = llm("show", model, "--plan", "1x1.6GB", "--context", 4096)
    assert small.returncode == 5 and b"does not fit on 1 x 1.49 GiB" in small.stderr and not small.stdout
    assert llm("show", model, "--plan", "9x80GB").returncode == 4
    assert llm("show", model, "--plan", "many").returncode == 2
    alone = llm("show", model, "--context", 512)
    assert alone.returncode == 2 and b"are settings of --plan" in alone.stderr
