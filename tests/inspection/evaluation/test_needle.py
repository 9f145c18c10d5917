from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.evaluation import needle as needles
from llmcli.inspection.evaluation.needle import NAMES, WORDS, bootstrap_interval, needle
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import save, tiny_model, write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint

FACT = re.compile(r"The secret word of (\w+) is (\w+)\.")


def load(folder: Path, case: str, context: int = 900) -> llmcli.LoadedModel:
    model_type, overrides = CASES[case]
    model = tiny_model(model_type, **{**overrides, "max_position_embeddings": context})
    return llmcli.load(save(model, folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    return load(tmp_path_factory.mktemp("model"), "llama 1")


def prompts_of(loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that will be encoded from now on."""
    seen: list[str] = []
    encode = loaded.tokenizer.encode

    def heard(text: str, **options: bool) -> list[int]:
        seen.append(text)
        return encode(text, **options)

    monkeypatch.setattr(loaded.tokenizer, "encode", heard)
    return seen


@pytest.mark.parametrize(
    ("case", "context"),
    # The fourth model has length-dependent RoPE.
    [("llama 1", 900), ("mistral, window shorter than the text", 900), ("deepseek v3", 900), ("llama, dynamic", 100)],
)
def test_needle_probabilities_equal_those_of_whole_texts(
    case: str, context: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(tmp_path / "m", case, context)
    prompts = prompts_of(loaded, monkeypatch)
    result = needle(loaded, facts=3, seeds=2, depths=[0, 50, 100])
    monkeypatch.undo()
    asked = [prompt for prompt in prompts if prompt.count("?") == 1][-6:]
    model = loaded.model
    encode = loaded.tokenizer.encode
    longest = max(len(encode(f"{prompt} {word}")) for prompt in asked for word in pairs(prompt).values())
    hits = [0, 0, 0]
    for index, prompt in enumerate(asked):
        found = pairs(prompt)
        scores = []
        for word in found.values():
            ids, start = encode(f"{prompt} {word}"), len(encode(prompt))
            cache = model.new_cache()
            cache.expected_length = longest
            with torch.inference_mode():
                logprobs = model(torch.tensor([ids]), cache)[0].log_softmax(-1)
            scores.append(float(sum(logprobs[place - 1, ids[place]] for place in range(start, len(ids)))))
        gold = list(found).index(name_asked(prompt))
        expected = float(torch.tensor(scores, dtype=torch.float64).softmax(-1)[gold])
        # The last depth is asked first.
        depth = result.depths[2 - index % 3]
        hits[2 - index % 3] += gold == max(range(3), key=scores.__getitem__)
        assert depth.probs[index // 3] == pytest.approx(expected, rel=1e-3)
    assert [depth.accuracy for depth in result.depths] == [count / 2 for count in hits]
    for depth in result.depths:
        assert depth.mean == pytest.approx(sum(depth.probs) / 2)
        assert depth.low <= depth.mean <= depth.high


def pairs(prompt: str) -> dict[str, str]:
    return dict(FACT.findall(prompt))


def name_asked(prompt: str) -> str:
    match = re.search(r"What is the secret word of (\w+)\?", prompt)
    assert match is not None
    return match[1]


def test_only_the_place_of_the_needle_changes(loaded: llmcli.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(loaded, monkeypatch)
    result = needle(loaded, facts=5, seeds=2, depths=[0, 25, 50, 75, 100])
    asked = [prompt for prompt in prompts if "?" in prompt][-10:]
    places, others = [], set()
    for prompt in asked[:5]:
        found, name = pairs(prompt), name_asked(prompt)
        places.append(list(found).index(name))
        assert found.pop(name) == result.answer
        others.add(tuple(found.items()))
    assert places == [4, 3, 2, 1, 0]
    assert len(others) == 1, "the other facts stay in their order"
    assert [depth.depth for depth in result.depths] == [0, 25, 50, 75, 100]
    assert pairs(asked[5]) != pairs(asked[0]), "another seed, another text"
    assert asked[0].endswith(f"Answer: The secret word of {name_asked(asked[0])} is")
    assert result.tokens == pytest.approx(sum(len(loaded.tokenizer.encode(prompt)) for prompt in asked) / 10)


def test_the_same_seeds_give_the_same_numbers_in_any_order(loaded: llmcli.LoadedModel) -> None:
    one = needle(loaded, facts=4, seeds=2, depths=[100, 0])
    other = needle(loaded, facts=4, seeds=3, depths=[0, 33, 100])
    for mine, yours in ((one.depths[0], other.depths[2]), (one.depths[1], other.depths[0])):
        assert mine.probs == pytest.approx(yours.probs[:2], rel=1e-4)
    assert (one.chance, one.facts, one.seeds) == (0.25, 4, 2)


@pytest.mark.parametrize("wanted", [400, 800])
def test_neutral_sentences_lengthen_the_text(
    loaded: llmcli.LoadedModel, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(loaded, monkeypatch)
    result = needle(loaded, facts=2, seeds=2, depths=[0, 100], context_tokens=wanted)
    assert result.tokens == pytest.approx(wanted, abs=60)
    for prompt in prompts[-4:]:
        assert len(pairs(prompt)) == 2
    first, second = (re.sub(FACT, "", prompt) for prompt in prompts[-4:-2])
    assert first == second, "the same sentences at every depth"
    # Between the facts, not all at one end.
    assert 0.3 < prompts[-1].index(FACT.findall(prompts[-1])[0][0]) / prompts[-1].index("Question") < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"facts": 1}, "2 to 40 facts"),
        ({"facts": 41}, "2 to 40 facts"),
        ({"seeds": 1}, "at least 2 seeds"),
        ({"depths": []}, "percentages"),
        ({"depths": [0, 101]}, "percentages"),
        ({"depths": [math.nan]}, "percentages"),
    ],
)
def test_needle_arguments_out_of_range_are_refused(
    loaded: llmcli.LoadedModel, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        needle(loaded, **options)  # type: ignore[arg-type]


def test_a_text_longer_than_the_context_is_refused(loaded: llmcli.LoadedModel) -> None:
    with pytest.raises(PromptTooLongError, match="context holds 900"):
        needle(loaded, facts=40, seeds=2)


def test_chat_puts_the_question_into_the_template(tmp_path: Path, loaded: llmcli.LoadedModel) -> None:
    raw, chat = (needle(loaded, facts=2, seeds=2, depths=[0], chat=chat) for chat in (False, True))
    assert raw.depths[0].probs != chat.depths[0].probs
    # Three markers and the message's end for the start of the text; no "Question:" and "Answer:".
    assert abs(raw.tokens - chat.tokens) < 30
    folder = tiny_checkpoint(tmp_path / "m", "llama")
    write_text_files(folder, template=None)
    with pytest.raises(UsageError, match="no chat template"):
        needle(llmcli.load(folder), chat=True)


def test_intervals_are_those_of_the_normal_approximation_where_it_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (100, 400):
        values = torch.rand(count, generator=generator, dtype=torch.float64)
        low, high = bootstrap_interval(values.tolist())
        half = 1.96 * float(values.std()) / count**0.5
        assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.1 * half)
    assert bootstrap_interval([0.3] * 5) == pytest.approx((0.3, 0.3))
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


@pytest.mark.parametrize("listed", [NAMES, WORDS])
def test_no_needle_word_is_a_prefix_of_another(listed: tuple[str, ...]) -> None:
    assert len(set(listed)) == len(listed) == 40
    assert not [pair for pair in itertools.permutations(listed, 2) if pair[0].startswith(pair[1])]


@pytest.mark.starter
def test_the_starter_is_lost_in_the_middle() -> None:
    starter = llmcli.load(starter_path() or fetch_starter(), dtype="float32", device="cpu")
    for word in WORDS:
        ids = needles._word_ids(starter, word)
        assert len(ids) == 1
        prompt = "Answer: The secret word of Alice is"
        assert starter.tokenizer.encode(f"{prompt} {word}") == starter.tokenizer.encode(prompt) + ids
    begin, middle, end = needle(starter, seeds=2, depths=[0, 50, 100]).depths
    assert begin.mean > middle.high
    assert end.mean > middle.high
