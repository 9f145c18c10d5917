"""The engine on models with sliding-window caches, and with RoPE that depends on the text's length."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import llmcli
from llmcli.engine import Engine, Prefill, SamplingParams, Step
from llmcli.loaded_model import LoadedModel
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint


def loaded(case: str, folder: Path) -> LoadedModel:
    model_type, overrides = CASES[case]
    return llmcli.load(tiny_checkpoint(folder, model_type, **overrides), dtype="float32", device="cpu")


def run(engine: Engine, prompt: list[int], tokens: int | None) -> tuple[int, list[int]]:
    """The number of prompt tokens taken from the cache, and the greedy reply."""
    events = list(engine.stream(prompt, SamplingParams(temperature=0, max_tokens=tokens)))
    assert isinstance(events[0], Prefill)
    return events[0].cached, [event.id for event in events if isinstance(event, Step)]


@pytest.mark.parametrize("case", ["gemma 2", "llama 4", "gpt-oss", "deepseek v3"])
def test_rewinding_the_cache_gives_the_same_reply(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(case, tmp_path)
    small = partial(model.model.new_cache, rewind=5, room=3)
    monkeypatch.setattr(model.model, "new_cache", small)
    engine = Engine(model.model, model.tokenizer)
    first = random_ids(60)
    run(engine, first, 10)
    reused = []
    # Continue; rewind by a little; rewind to before the window.
    for shared, extra in ((60, 5), (62, 4), (20, 30)):
        prompt = first[:shared] + random_ids(extra, seed=shared)
        cached, reply = run(engine, prompt, 10)
        assert reply == run(Engine(model.model, model.tokenizer), prompt, 10)[1]
        reused.append(cached)
    forgets = any(layer.is_windowed for layer in model.config.layers)
    assert reused[2] == (0 if forgets else 20)
    assert reused[1] > 0 or forgets


def test_rotations_of_a_reply_are_those_of_its_greatest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The long factors apply to texts of more than 24 tokens.
    model = loaded("phi-3, longrope, long", tmp_path)
    prompt = random_ids(15)
    read: list[int] = []
    forward = model.model.forward

    def counted(ids: object, *args: object, **options: object) -> object:
        read.append(ids.shape[1])  # type: ignore[attr-defined]
        return forward(ids, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model.model, "forward", counted)
    _, reply = run(Engine(model.model, model.tokenizer, context_length=60), prompt, None)
    assert read == [15] + [1] * 44
    monkeypatch.undo()
    # As if the limit had been given, which is that of the context.
    assert reply == run(Engine(model.model, model.tokenizer), prompt, 45)[1]
    text = prompt + reply
    # Texts beyond 24 tokens have the same rotations when they are read at once.
    for end in (25, 26, 40, 59):
        assert int(model.logits(text[:end])[-1].argmax()) == text[end]


def test_the_cache_of_a_short_text_is_not_used_for_a_long_one(tmp_path: Path) -> None:
    model = loaded("phi-3, longrope, long", tmp_path)
    engine = Engine(model.model, model.tokenizer)
    prompt = random_ids(15)
    assert run(engine, prompt, 5)[0] == 0
    assert run(engine, prompt, 6)[0] == 15
    cached, reply = run(engine, prompt, 30)
    assert cached == 0
    assert reply == run(Engine(model.model, model.tokenizer), prompt, 30)[1]
    assert run(engine, prompt, 20)[0] == 15


def test_a_text_beyond_learned_positions_is_refused(tmp_path: Path) -> None:
    model = loaded("gpt-2", tmp_path)
    model.logits(random_ids(128))
    with pytest.raises(llmcli.errors.PromptTooLongError, match=r"129 tokens.* 128"):
        model.logits(random_ids(129))
