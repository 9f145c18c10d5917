"""Fill-in-the-middle prompts of code models, in each layout."""

from __future__ import annotations

import re

import pytest
from tokenizers import AddedToken

from llmcli.errors import UsageError
from llmcli.text.fill_in import fill_in_of
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.load import tokenizer_from_gguf, tokenizer_from_json
from tests.support.text.tokenizers import (
    byte_level_backend,
    gguf_of_byte_level,
    gguf_of_sentencepiece,
    tokenizer,
    wrapped,
)


def made(*tokens: str, special: bool = True) -> Tokenizer:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return wrapped(backend)


def written(ours: Tokenizer, prefix: str, suffix: str) -> str:
    ids = fill_in_of(ours, name="m").ids(ours, prefix, suffix)
    return ours.decode(ids, skip_special=False)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("tokens", "prompt"),
    [
        (
            ["<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_pad|>"],
            "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        ),
        (["<fim_prefix>", "<fim_middle>", "<fim_suffix>"], "<fim_prefix>P<fim_suffix>S<fim_middle>"),
        (["<fim-prefix>", "<fim-middle>", "<fim-suffix>"], "<fim-prefix>P<fim-suffix>S<fim-middle>"),
        (
            ["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"],
            "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
        ),
        (["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"], "▁<PRE>P▁<SUF>S▁<MID>"),
        (["[PREFIX]", "[MIDDLE]", "[SUFFIX]"], "[SUFFIX]S[PREFIX]P"),
        (["<[fim-prefix]>", "<[fim-middle]>", "<[fim-suffix]>"], "<[fim-suffix]>S<[fim-prefix]>P<[fim-middle]>"),
        (["<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"], "<|code_prefix|>P<|code_suffix|>S<|code_middle|>"),
    ],
)
def test_each_fill_in_layout_matches_its_models(tokens: list[str], prompt: str, special: bool) -> None:
    ours = made(*tokens, special=special)
    assert written(ours, "P", "S") == f"<|begin|>{prompt}"
    ends = {ours.piece(token) for token in fill_in_of(ours, name="m").ends}
    assert set(tokens) <= ends


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("def f(x):\n    ", "\n    return x\n"), (" ü", " \t")])
def test_any_texts_may_be_around_the_gap(prefix: str, suffix: str) -> None:
    ours = made("<fim_prefix>", "<fim_middle>", "<fim_suffix>")
    assert written(ours, prefix, suffix) == f"<|begin|><fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"


def test_spellings_of_control_tokens_around_the_gap_are_text() -> None:
    ours = made("<fim_prefix>", "<fim_middle>", "<fim_suffix>")
    ids = fill_in_of(ours, name="m").ids(ours, "a<fim_middle><|im_end|>", "<fim_prefix>")
    assert [ours.piece(token) for token in ids if ours.is_added(token)] == [
        "<|begin|>",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
    ]


def test_only_the_prefix_begins_a_text_where_one_begins_with_a_space() -> None:
    metadata = gguf_of_sentencepiece()
    names = ["tokens", "token_type", "scores"]
    more: list[list[object]] = [["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], [3] * 4, [0.0] * 4]
    for name, values in zip(names, more, strict=True):
        listed = metadata[f"tokenizer.ggml.{name}"]
        assert isinstance(listed, list)
        metadata[f"tokenizer.ggml.{name}"] = [*listed, *values]
    ours = tokenizer_from_gguf(metadata, source="m.gguf")
    ids = fill_in_of(ours, name="m").ids(ours, "The fox", "jumps")
    # As Meta's `infilling_prompt_tokens` has it.
    at = [ids.index(ours.token_to_id(token)) for token in ("▁<PRE>", "▁<SUF>", "▁<MID>")]  # type: ignore[arg-type]
    assert (at[0], at[2]) == (1, len(ids) - 1)
    assert ids[at[0] + 1 : at[1]] == ours.encode("The fox", add_special_tokens=False)
    assert b"".join(map(ours.token_bytes, ids[at[1] + 1 : -1])) == b"jumps"
    assert ours.token_bytes(ids[at[0] + 1]).startswith(b" ")


@pytest.mark.parametrize("keys", [("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle")])
def test_keys_of_gguf_files_name_the_tokens(keys: tuple[str, str, str]) -> None:
    backend = byte_level_backend()
    backend.add_special_tokens(["<A>", "<B>", "<C>", "<D>"])
    metadata = gguf_of_byte_level(backend, "gpt-2")
    for key, token in zip((*keys, "fim_sep"), ("<A>", "<B>", "<C>", "<D>"), strict=True):
        metadata[f"tokenizer.ggml.{key}_token_id"] = backend.token_to_id(token)
    ours = tokenizer_from_gguf(metadata, source="m.gguf")
    assert written(ours, "P", "S") == "<|begin|><A>P<B>S<C>"
    assert {"<A>", "<B>", "<C>", "<D>"} <= {ours.piece(token) for token in fill_in_of(ours, name="m").ends}
    bad = metadata | {f"tokenizer.ggml.{keys[0]}_token_id": 10**6}
    with pytest.raises(UsageError, match=re.escape("<|fim_prefix|>, <|fim_suffix|> and <|fim_middle|>")):
        fill_in_of(tokenizer_from_gguf(bad, source="m.gguf"), name="m")


def test_roles_in_the_settings_of_a_tokenizer_name_the_tokens() -> None:
    backend = byte_level_backend()
    backend.add_tokens(["<A>", "<B>", "<C>"])
    roles = {"prefix_token": "<A>", "suffix_token": "<B>", "middle_token": {"content": "<C>"}}
    ours = tokenizer_from_json(backend.to_str(), source="t.json", tokenizer_config=roles)
    assert written(ours, "P", "S") == "<|begin|><A>P<B>S<C>"


@pytest.mark.parametrize(
    "ours", [tokenizer("byte"), tokenizer("sentencepiece"), made("<fim_prefix>", "<fim_suffix>")], ids=range(3)
)
def test_a_model_without_the_tokens_says_what_it_would_need(ours: Tokenizer) -> None:
    with pytest.raises(UsageError, match="starter was not trained to fill in: its vocabulary has no control tokens"):
        fill_in_of(ours, name="starter")
