"""Speculative decoding gives the tokens of plain decoding, whatever is proposed: greedy, or by lookup with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import llmcli
from llmcli.engine import Engine, Finish, Interruption, SamplingParams, Step
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.guided.grammar import Rule
from llmcli.errors import UsageError
from llmcli.loaded_model import LoadedModel
from tests.support.models.parity_cases import CASES
from tests.support.models.puppet import ASSISTANT, chain, ids_of, loop, write_puppet
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

GREEDY = SamplingParams(temperature=0, max_tokens=24)
SAMPLED = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=5, max_tokens=24)


def reply(engine: Engine, ids: Sequence[int], params: SamplingParams, **options: object) -> tuple[list[Step], Finish]:
    *events, finish = engine.stream(ids, params, probabilities=False, **options)  # type: ignore[arg-type]
    assert isinstance(finish, Finish)
    return [event for event in events if isinstance(event, Step)], finish


def ids_said(steps: Sequence[Step]) -> list[int]:
    return [step.id for step in steps]


def repeating_prompt(seed: int) -> list[int]:
    """Words that repeat, so that lookup finds many matches."""
    words = [random_ids(5, seed=seed), random_ids(4, seed=seed + 1)]
    return [*words[0], *words[1], *words[0], *words[0], *words[1][:3]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """A model with sliding windows, and draft models for it."""
    folder = tmp_path_factory.mktemp("models")
    options = {"sliding_window": 9, "max_position_embeddings": 128}
    return {
        "itself": llmcli.load(tiny_checkpoint(folder / "itself", "mistral", **options), dtype="float32"),
        "another": llmcli.load(tiny_checkpoint(folder / "b", "llama", seed=3, num_hidden_layers=1), dtype="float32"),
        "short-sighted": llmcli.load(
            tiny_checkpoint(folder / "c", "llama", seed=3, max_position_embeddings=30), dtype="float32"
        ),
    }


@pytest.mark.parametrize("tokens", [None, 1, 4, 15])
@pytest.mark.parametrize(
    "draft", [None, "another", *(pytest.param(name, marks=pytest.mark.slow) for name in ("itself", "short-sighted"))]
)
def test_greedy_replies_equal_those_without_proposals(
    models: dict[str, LoadedModel], draft: str | None, tokens: int | None
) -> None:
    model = models["itself"]
    plain = model.engine()
    ahead = model.engine(draft=models[draft] if draft else None, lookup=True, draft_tokens=tokens)
    proposed = 0
    for seed in range(8):
        # Several turns: rejected tokens in the cache must not count as part of the text.
        ids = repeating_prompt(seed)
        for _ in range(2):
            params = replace(GREEDY, repeat_penalty=1.1 if seed % 2 else 1.0)
            (steps, finish), (said, done) = reply(plain, ids, params), reply(ahead, ids, params)
            assert ids_said(said) == ids_said(steps)
            assert (done.reason, done.text, done.stats.generated_tokens) == (
                finish.reason, finish.text, finish.stats.generated_tokens,
            )  # fmt: skip
            proposed += done.stats.proposed_tokens
            ids += [*ids_said(steps), *random_ids(3, seed=seed)]
    assert proposed > 0


@pytest.mark.parametrize("name", ["mistral", "gemma 2", "gpt-oss", "llama 4", "deepseek v2 lite", "mixtral"])
def test_greedy_replies_of_many_families_equal_those_without_proposals(tmp_path: Path, name: str) -> None:
    model_type, overrides = CASES.get(name, (name, {}))
    loaded = llmcli.load(tiny_checkpoint(tmp_path, model_type, **overrides), dtype="float32")
    plain, ahead = loaded.engine(), loaded.engine(draft=loaded, lookup=True, draft_tokens=3)
    for seed in range(3):
        ids = repeating_prompt(seed)
        said, finish = reply(ahead, ids, GREEDY)
        assert ids_said(said) == ids_said(reply(plain, ids, GREEDY)[0])
        assert finish.stats.accepted_tokens > 0


def test_the_same_seed_gives_the_same_text_with_lookup(models: dict[str, LoadedModel]) -> None:
    """Also with probabilities, and with any number of proposed tokens."""
    for seed in range(6):
        params, ids = replace(SAMPLED, temperature=0.5, seed=seed, max_tokens=60), repeating_prompt(seed)
        plain = ids_said(reply(models["itself"].engine(), ids, params)[0])
        for tokens in (None, 2, 15):
            engine = models["itself"].engine(lookup=True, draft_tokens=tokens)
            assert ids_said(reply(engine, ids, params)[0]) == plain
            shown = [step for step in engine.stream(ids, params, top=2) if isinstance(step, Step)]
            assert ids_said(shown) == plain


def test_a_reply_ends_at_the_same_token_as_without_proposals(tmp_path: Path) -> None:
    says = write_puppet(tmp_path / "a", chain(b"abcdefghij"), context=40)
    loops = write_puppet(tmp_path / "b", loop(b"abcdefg"), context=40)
    greedy = SamplingParams(temperature=0)
    for folder, params, reason, text in (
        (says, greedy, "stop", "abcdefghij"),
        (says, replace(greedy, stop=("ef",)), "stop_string", "abcd"),
        (loops, replace(greedy, max_tokens=10), "length", "abcdefgabc"),
        (loops, greedy, "context", ("abcdefg" * 6)[:39]),
    ):
        loaded = llmcli.load(folder)
        for tokens in (1, 3, 15):
            engine = loaded.engine(draft=loaded, lookup=True, draft_tokens=tokens)
            # The second time the cache holds the text and tokens that were read beyond it.
            for _ in range(2):
                steps, finish = reply(engine, [ASSISTANT], params)
                assert ("".join(step.text for step in steps) + finish.text, finish.reason) == (text, reason)
                assert finish.stats.generated_tokens == len(steps)


def test_each_step_has_the_origin_of_its_token(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abcdefg"), context=60))
    params = SamplingParams(temperature=0, max_tokens=9)
    steps, finish = reply(loaded.engine(draft=loaded, draft_tokens=3), [ASSISTANT], params)
    # The first comes from the prefill; then three are drafted and the model adds one, twice.
    assert [step.origin for step in steps] == ["model", *(["draft"] * 3 + ["model"]) * 2]
    stats = finish.stats
    assert (stats.proposed_tokens, stats.accepted_tokens, stats.acceptance_rate) == (6, 6, 1.0)
    assert stats.tokens_per_pass == 4
    steps, finish = reply(loaded.engine(lookup=True, draft_tokens=2), [*ids_of(b"abcdefgabcd")], params)
    assert [step.origin for step in steps] == ["model", *(["lookup"] * 2 + ["model"]) * 2, "lookup", "model"]
    plain = reply(loaded.engine(), [ASSISTANT], params)[1].stats
    assert (plain.proposed_tokens, plain.acceptance_rate, plain.tokens_per_pass) == (0, None, None)


def test_rejected_tokens_are_counted(tmp_path: Path) -> None:
    target = llmcli.load(write_puppet(tmp_path / "a", loop(b"abcdefg"), context=60))
    wrong = llmcli.load(write_puppet(tmp_path / "b", loop(b"abcxyzv"), context=60))
    steps, finish = reply(
        target.engine(draft=wrong, draft_tokens=4), [ASSISTANT], SamplingParams(temperature=0, max_tokens=8)
    )
    assert [step.origin for step in steps][:4] == ["model", "draft", "draft", "model"]
    assert finish.stats.accepted_tokens == [step.origin for step in steps].count("draft")
    assert finish.stats.proposed_tokens > finish.stats.accepted_tokens


def test_a_constraint_applies_to_proposals(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abcdefg"), context=80))
    for params in (GREEDY, replace(SAMPLED, temperature=0.7)):
        texts = []
        for options in ({}, {"draft": loaded, "lookup": True, "draft_tokens": 4}):
            constraint = Constraint(Rule("regex", "(abcd){2,4}xy"), loaded.tokenizer, loaded.stop_ids)
            steps, finish = reply(loaded.engine(**options), [ASSISTANT], params, constraint=constraint)  # type: ignore[arg-type]
            texts.append(("".join(step.text for step in steps) + finish.text, finish.reason))
        assert texts[0] == texts[1]
        assert texts[0][0].endswith("abcdxy")


def test_ctrl_c_ends_the_reply_between_tokens_that_were_verified_together(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abcdefg"), context=100))
    engine, interruption = loaded.engine(draft=loaded, draft_tokens=6), Interruption()
    said = 0
    for event in engine.stream([ASSISTANT], GREEDY, interruption=interruption, probabilities=False):
        if isinstance(event, Step):
            said += 1
            if said == 4:
                interruption.request()
        elif isinstance(event, Finish):
            assert (event.reason, event.stats.generated_tokens) == ("interrupted", 4)
    steps, _ = reply(engine, [ASSISTANT, *ids_of(b"abcd")], replace(GREEDY, max_tokens=5))
    assert "".join(step.text for step in steps) == "efgab"


def test_with_a_forward_hook_each_pass_reads_one_token(models: dict[str, LoadedModel]) -> None:
    model = models["itself"]
    seen: list[int] = []
    hook = model.model.layers[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    try:
        steps, finish = reply(model.engine(lookup=True, draft_tokens=4), repeating_prompt(1), GREEDY)
    finally:
        hook.remove()
    assert len(seen) >= len(steps) > 2
    assert set(seen[1:]) == {1}
    assert finish.stats.proposed_tokens == 0


def test_a_draft_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path / "a", "llama"))
    tiny_checkpoint(tmp_path / "b", "llama")
    file = tmp_path / "b" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|user|>", "<|human|>"))
    with pytest.raises(UsageError, match=r"b .* cannot draft for a .*vocabularies differ"):
        loaded.engine(draft=llmcli.load(tmp_path / "b"))


def test_lookup_is_on_by_default_only_where_it_is_exact(tmp_path: Path) -> None:
    loaded = llmcli.load(write_puppet(tmp_path, loop(b"abcdefg"), context=80), device="cpu")
    readable = replace(loaded, why_readable="for the test")
    for model, exact in ((loaded, not loaded.why_readable), (readable, False)):
        _, finish = reply(model.engine(lookup=None, draft_tokens=2), [ASSISTANT], GREEDY)
        assert (finish.stats.proposed_tokens > 0) == exact
        _, finish = reply(model.engine(lookup=True, draft_tokens=2), [ASSISTANT], GREEDY)
        assert finish.stats.proposed_tokens > 0
