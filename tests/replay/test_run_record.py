from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.errors import UsageError
from llmcli.replay.replay import Replay, replay
from llmcli.replay.run_record import RunRecord, as_json, from_json, recorded
from llmcli.text.reasoning import ReplyStart
from llmcli.views.terminal.to_json import plain
from tests.support.models.puppet import ASSISTANT, END, ids_of, write_puppet
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

PARAMS = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, seed=4, max_tokens=12)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return llmcli.load(tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama"), dtype="float32")


def run(loaded: llmcli.LoadedModel, params: SamplingParams = PARAMS, prompt: list[int] | None = None) -> RunRecord:
    ids, engine = prompt or random_ids(9), loaded.engine()
    events = list(engine.stream(ids, params, top=5))
    steps, finish = [event for event in events if isinstance(event, Step)], events[-1]
    assert isinstance(finish, Finish)
    return recorded(
        loaded,
        params,
        {"f": "00"},
        context_length=engine.context_length,
        prompt="?",
        prompt_ids=ids,
        start=ReplyStart(),
        steps=steps,
        text="".join(step.text for step in steps) + finish.text,
        finish=finish,
    )


def replay_of(loaded: llmcli.LoadedModel, run: RunRecord) -> Replay:
    return replay(loaded, run, {"f": "00"})


def test_a_written_record_is_read_back(loaded: llmcli.LoadedModel) -> None:
    made = run(loaded, replace(PARAMS, stop=("\n\n",)))
    assert from_json(json.loads(json.dumps(plain(as_json(made))))) == made
    assert made.tokens and all(token.top and token.logprob <= 0 for token in made.tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_replay_of_the_same_run_agrees(loaded: llmcli.LoadedModel, temperature: float) -> None:
    made = run(loaded, replace(PARAMS, temperature=temperature))
    result = replay_of(loaded, made)
    assert (result.same, result.compared, result.first_difference, result.changed) == (True, 12, None, {})
    assert result.largest_change == 0


def test_the_first_difference_and_its_log_probabilities(loaded: llmcli.LoadedModel) -> None:
    made = run(loaded, replace(PARAMS, temperature=0))
    at = 7
    other = next(token for token in made.tokens[at].top if token != made.tokens[at].id)
    changed = replace(made.tokens[at], id=other, logprob=made.tokens[at].top[other])
    result = replay_of(loaded, replace(made, tokens=(*made.tokens[:at], changed, *made.tokens[at + 1 :])))
    difference = result.first_difference
    assert (result.same, result.compared) == (False, at) and difference is not None
    assert difference.recorded.token is not None and difference.replayed.token is not None
    assert (difference.index, difference.recorded.token.id, difference.replayed.token.id) == (
        at,
        other,
        made.tokens[at].id,
    )
    for side in (difference.recorded, difference.replayed):
        assert side.logprob == pytest.approx(side.recorded_logprob, abs=1e-4)
    assert difference.gap == pytest.approx(made.tokens[at].logprob - changed.logprob, abs=1e-4)
    assert difference.gap > 0


def ender(folder: Path, ends: float) -> llmcli.LoadedModel:
    a = ids_of(b"a")[0]
    return llmcli.load(write_puppet(folder, {ASSISTANT: {a: 1.0}, a: {END: ends, a: 1 - ends}}), dtype="float32")


@pytest.mark.parametrize("longer", [False, True])
def test_a_reply_that_ends_at_another_position_differs(tmp_path: Path, longer: bool) -> None:
    ends, goes_on = ender(tmp_path / "ends", 0.8), ender(tmp_path / "on", 0.3)
    first, second = (ends, goes_on) if longer else (goes_on, ends)
    made = run(first, replace(PARAMS, temperature=0), [ASSISTANT])
    assert [len(made.tokens), made.finish_reason] == ([1, "stop"] if longer else [12, "length"])
    result = replay_of(second, made)
    difference = result.first_difference
    assert difference is not None and not result.same
    assert (difference.index, difference.recorded.token is None, difference.replayed.token is None) == (
        1,
        longer,
        not longer,
    )
    expected = 0.7 / 0.3 if longer else 0.8 / 0.2
    assert 2.718281828**difference.gap == pytest.approx(expected, rel=0.01)
    assert replay_of(first, made).same


def test_an_interrupted_reply_is_compared_up_to_its_end(loaded: llmcli.LoadedModel) -> None:
    made = run(loaded)
    cut = replace(made, tokens=made.tokens[:5], finish_reason="interrupted")
    assert (replay_of(loaded, cut).same, replay_of(loaded, cut).compared) == (True, 5)


def test_changed_versions_and_files_are_named(loaded: llmcli.LoadedModel) -> None:
    made = replace(run(loaded), device="cuda:0", versions={"torch": "1", "llmcli": llmcli.__version__})
    changed = replay(loaded, made, {"f": "01", "g": "02"}).changed
    assert {"torch", "python", "device", "file f", "file g"} == set(changed)
    assert (changed["file f"], changed["file g"], changed["device"]) == (("00", "01"), ("", "02"), ("cuda:0", "cpu"))


def test_a_record_with_unknown_token_ids_is_refused(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(UsageError, match="another model"):
        replay_of(loaded, replace(run(loaded), prompt_ids=(100_000,)))


def damaged(value: Any) -> list[Any]:
    """Copies of `value`, each with one item missing or of another type."""
    found: list[Any] = []
    for key in value if isinstance(value, dict) else range(len(value)):
        wrongs: tuple[Any, ...] = (None, "x", [], {}, -1.5, True)
        for wrong in wrongs:
            if type(wrong) is not type(value[key]) and not (key in ("seed", "max_tokens") and wrong is None):
                copy = value.copy()
                copy[key] = wrong
                found.append(copy)
        if isinstance(value, dict):
            found.append({name: item for name, item in value.items() if name != key})
        if isinstance(value[key], dict | list) and value[key] and key != "top":
            items = damaged(value[key] if isinstance(value[key], dict) else value[key][:1])
            found += [{**value, key: item} if isinstance(value, dict) else [item] for item in items]
    return found


def test_damaged_records_are_refused_with_a_message(loaded: llmcli.LoadedModel) -> None:
    value = json.loads(json.dumps(plain(as_json(run(loaded, replace(PARAMS, stop=("z",)))))))
    texts = ("versions", "files")
    cases = [case for case in damaged(value) if not any(case.get(name) == {} for name in texts)]
    assert len(cases) > 150
    survivors = []
    for case in cases:
        try:
            from_json(case)
        except UsageError:
            continue
        survivors.append(case)
    # Not damage: fewer versions or hashes; an empty list where that is allowed; 1 instead of 1.0; and
    # a missing start or KV cache, as in older records.
    for case in survivors:
        changed = [name for name in value if case.get(name) != value[name]]
        assert changed and changed[0] in (
            "versions",
            "files",
            "settings",
            "tokens",
            "prompt_ids",
            "start",
            "kv_cache",
        ), changed
    nothings: tuple[Any, ...] = (None, [], {}, {"schema": "x"})
    for nothing in nothings:
        with pytest.raises(UsageError, match="not a recorded run"):
            from_json(nothing)
