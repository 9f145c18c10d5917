from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from llmcli.errors import CheckpointError
from llmcli.text.end_of_turn import stop_ids
from llmcli.text.tokenizer import Tokenizer


def tokenizer(ordinary: list[str], special: list[str], eos: str | None = None) -> Tokenizer:
    backend = Backend(models.BPE({text: index for index, text in enumerate([*ordinary, *special])}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return Tokenizer.from_json(backend.to_str(), source="t", tokenizer_config={"eos_token": eos})


def test_every_place_that_names_a_token_counts() -> None:
    ours = tokenizer(["a", "b", "[EOS]"], ["</s>", "<|im_end|>"], eos="</s>")
    found = stop_ids(ours, {"generation_config.json": [3, 1], "config.json": [3]})
    assert found == {
        3: ("generation_config.json", "config.json", "tokenizer"),
        1: ("generation_config.json",),
        4: ("known as <|im_end|>",),
    }


def test_a_model_that_names_nothing_stops_at_nothing() -> None:
    assert stop_ids(tokenizer(["a", "<|im_end|>"], []), {}) == {}


def test_where_a_turn_has_several_messages_their_end_does_not_end_it() -> None:
    one = tokenizer(["a"], ["<|end|>", "<|return|>"])
    several = tokenizer(["a"], ["<|end|>", "<|return|>", "<|call|>"])
    assert set(stop_ids(one, {})) == {1, 2}
    assert set(stop_ids(several, {})) == {2, 3}
    assert set(stop_ids(several, {"config.json": [1]})) == {1, 2, 3}


@pytest.mark.parametrize("outside", [-1, 2, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(outside: int) -> None:
    with pytest.raises(CheckpointError, match=rf"config.json names {outside} .* has 2 tokens"):
        stop_ids(tokenizer(["a", "b"], []), {"config.json": [outside]})
