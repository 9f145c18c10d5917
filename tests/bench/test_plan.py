from __future__ import annotations

import itertools

import pytest

from llmcli.bench.plan import FULL, QUICK, BenchPlan, Sizes, benchmark_text, is_enough, passes

PLAN = BenchPlan("llmcli", "/a/ü \n.gguf", "cuda:1", "auto", 3, (5, 6, 7), Sizes((2,), (0, 9), 4), start_only=True)


def test_a_plan_is_one_line_of_json_and_parses_back() -> None:
    assert "\n" not in PLAN.to_json()
    assert BenchPlan.from_json(PLAN.to_json()) == PLAN


@pytest.mark.parametrize("context", [1, 2, 17, 18, 128, 129, 600, 2049, 4160, 4161, 8192])
@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_sizes_beyond_the_context_are_left_out_with_a_note(sizes: Sizes, context: int) -> None:
    fitting, notes = sizes.within(context)
    assert len(notes) == len(sizes.prefill) + len(sizes.contexts) - len(fitting.prefill) - len(fitting.contexts)
    if fitting.prefill or fitting.contexts:
        assert fitting.longest <= context
    # Exactly the sizes that fit are kept.
    for size in sizes.prefill:
        assert (size in fitting.prefill) == (Sizes((size,), (), sizes.tokens).longest <= context)
    for size in sizes.contexts:
        assert (size in fitting.contexts) == (Sizes((), (size,), sizes.tokens).longest <= context)


@pytest.mark.parametrize("sizes", [FULL, QUICK, Sizes((), (4096,), 64), Sizes((), (), 8)])
def test_passes_measure_every_size_once_after_a_warm_up(sizes: Sizes) -> None:
    steps = list(passes(sizes))
    assert steps[0].measure == "warm-up"
    assert [step.measure for step in steps if step.measure != "default decode"][-1] == "memory"
    assert [step.size for step in steps if step.measure == "default decode"] == list(sizes.contexts)
    assert [step.size for step in steps if step.measure == "prefill"] == list(sizes.prefill)
    assert sorted(step.size or 0 for step in steps if step.measure == "decode") == sorted(sizes.contexts)
    short = [step.measure for step in steps].index("memory")
    assert all(step.prompt <= 1 for step in steps[:short])
    assert len(steps) <= sizes.passes
    assert max(step.prompt + step.tokens for step in steps) <= max(sizes.longest, 10)
    for step in steps:
        if step.measure == "prefill":
            assert (step.prompt, step.tokens) == (step.size, 1)
        elif step.measure == "decode":
            assert (step.prompt, step.tokens) == (max(step.size or 0, 1), sizes.tokens + 1)
    # Every pass has enough ids from its start.
    ids = range(sizes.longest + sizes.passes)
    assert is_enough(ids, sizes)
    assert all(len(ids[start : start + step.prompt]) == step.prompt for start, step in enumerate(steps))


def test_no_two_sentences_of_the_text_are_equal() -> None:
    sentences = benchmark_text(3000).split(". ")
    assert len(set(sentences)) == 3000
    assert all(first.split()[0:2] != second.split()[0:2] for first, second in itertools.pairwise(sentences))
