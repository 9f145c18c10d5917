from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from llmcli.text.stop_tokens import NO_STOP_TOKEN, stop_ids
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.load import tokenizer_from_json


def tokenizer(ordinary: list[str], special: list[str], eos: str | None = None) -> Tokenizer:
    backend = Backend(models.BPE({text: index for index, text in enumerate([*ordinary, *special])}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return tokenizer_from_json(backend.to_str(), source="t", tokenizer_config={"eos_token": eos})


def test_every_declaration_of_a_stop_token_counts() -> None:
    ours = tokenizer(["a", "b", "[EOS]"], ["</s>", "<|im_end|>"], eos="</s>")
    found, notes = stop_ids(ours, {"generation_config.json": [3, 1], "config.json": 3.0, "more": None})
    assert not notes
    assert found == {
        3: ("generation_config.json", "config.json", "tokenizer"),
        1: ("generation_config.json",),
        4: ("known as <|im_end|>",),
    }


def test_a_model_without_declarations_has_no_stop_tokens() -> None:
    assert stop_ids(tokenizer(["a", "<|im_end|>"], []), {}) == ({}, (NO_STOP_TOKEN,))


def test_the_end_of_a_harmony_message_is_not_a_stop_token() -> None:
    one = tokenizer(["a"], ["<|end|>", "<|return|>"])
    several = tokenizer(["a"], ["<|end|>", "<|return|>", "<|call|>"])
    assert set(stop_ids(one, {})[0]) == {1, 2}
    assert set(stop_ids(several, {})[0]) == {2, 3}
    # Solar Open has another pair with the same meaning.
    assert set(stop_ids(tokenizer(["a"], ["<|end|>", "<|flush|>", "<|calls|>"]), {})[0]) == {2, 3}
    assert set(stop_ids(several, {"config.json": [1]})[0]) == {1, 2, 3}


@pytest.mark.parametrize(
    ("named", "kept", "shown"),
    [
        (-1, [], "-1"),
        (50256, [], "50256"),
        (2**40, [], str(2**40)),
        (2.5, [], "2.5"),
        (float("nan"), [], "nan"),
        ("1", [], "'1'"),
        (True, [], "True"),
        ({"a": 1}, [], "{'a': 1}"),
        ([1, None], [1], "None"),
        ([[0], 1], [1], r"\[0\]"),
        ([0, 1, 2, 3, 4, 5, 6], [0, 1], "2, 3, 4 and 2 more"),
    ],
)
def test_ids_outside_the_vocabulary_are_ignored_with_a_note(named: object, kept: list[int], shown: str) -> None:
    found, notes = stop_ids(tokenizer(["a", "b"], []), {"config.json": named})
    assert list(found) == kept
    assert re.match(rf"config\.json declares {shown} as a stop token, .* has 2 tokens", notes[0])
    assert notes[1:] == (() if kept else (NO_STOP_TOKEN,))
