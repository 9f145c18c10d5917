"""Added tokens that are text, and those that control the model although they are not marked as special."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.text.plain_tokens import plain_tokens
from llmcli.text.trusted_encoding import TextSegment
from llmcli.text.vocab.load import tokenizer_from_gguf, tokenizer_from_json
from tests.support.text.tokenizers import byte_level_backend, gguf_of_byte_level, gguf_of_sentencepiece

LETTERS = ["õ", "ö", "÷", "Á", "ý", "À", "ÿ", "ø", "ú", "þ", "ü", "ù", "û"]
"""What DeepSeek's first vocabularies have as added tokens."""
TEXT = [
    *(*LETTERS, "\n\n", "▁▁", "\t", " ", "<table>", "</table>", "<h1>", "<b>", "</em>", "<img>", "COVID-19", "żółć"),
    *(
        "don't",
        "New York",
        "Mr.",
        "C++",
        "C#",
        "한국어",
        "e\u0301",
        "...",
        "—",
        "€",
        "😀",
        "❤️",
        "👩‍👩‍👧",
        "2023",
        "###",
    ),
]
CONTROL = [
    *("<think>", "</think>", "<tool_call>", "<|im_end|>", "<｜User｜>", "<|fim_prefix|>", "<fim_middle>", "▁<PRE>"),
    *("[INST]", "[/INST]", "[PREFIX]", "[gMASK]", "<start_of_turn>", "<end_of_turn>", "<mask>", "<unused7>", "<bbox>"),
    *("<s>", "</s>", "<pad>", "<TABLE>", "< b>", "<output>", "<search>", "<audio>", "|||IP_ADDRESS|||", "__eou__"),
    *(
        "{{x}}",
        "(PAD)",
        "@user",
        "PAD_TOKEN",
        "<",
        "|",
        "«",
        "\ue000",
        "\x00",
        "a\u200b",
        "<0x0A>",
        "<b",
        "_",
    ),
]


def plain(contents: Sequence[str], *, named: Sequence[str] = (), templates: Sequence[str] = ()) -> list[str]:
    added = {index: AddedToken(content) for index, content in enumerate(contents)}
    return [contents[index] for index in sorted(plain_tokens(added, named=named, templates=templates))]


@pytest.mark.parametrize("content", TEXT)
def test_added_tokens_spelled_as_text_are_text(content: str) -> None:
    assert plain([content]) == [content]
    assert plain_tokens({0: AddedToken(content, special=True)}, named=(), templates=()) == frozenset()


@pytest.mark.parametrize("content", CONTROL)
def test_added_tokens_that_may_be_markers_are_not_text(content: str) -> None:
    assert plain([content]) == []


def test_a_token_with_a_role_or_in_a_template_is_not_text() -> None:
    contents = ["USER", "<h1>", "ü", "###", "\n\n", "end"]
    template = "{{ 'USER' }}### <h1> ü\n\n"
    assert plain(contents, named=["end"], templates=["", template]) == ["ü", "\n\n"]
    assert plain(contents, named=["ü"]) == ["USER", "<h1>", "###", "\n\n", "end"]


def test_a_marker_that_a_template_concatenates_is_not_text() -> None:
    contents = ["<code>", "</b>", "user", "assistant", "system", "<h1>", "<i>", "ü", "\n\n"]
    computed = "{% set a = '<' ~ 'code' ~ '>' %}{% for m in messages %}{{ a ~ m['role'] ~ m['content'] ~ '</' ~ 'b>' }}"
    written = computed + "{{ 'ü\n' + '\n' }}{% endfor %}{{ eos_token }}"
    refuses = "{% if messages | length > 3 %}{{ raise_exception('no') }}{% endif %}" + written
    assert plain(contents, templates=[written]) == ["<h1>", "<i>", "ü", "\n\n"]
    assert plain(contents, templates=[refuses]) == ["system", "<h1>", "<i>", "ü", "\n\n"]
    assert plain(contents, templates=[computed]) == contents


def test_a_template_that_is_given_later_guards_its_markers_too() -> None:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(content, special=False) for content in ("<h1>", "<b>")])
    tokenizer = tokenizer_from_json(backend.to_str(), source="t.json", templates=["<h1>"])
    bold = backend.token_to_id("<b>")
    assert bold in tokenizer.encode("a<b>") and not tokenizer.is_guarded(bold)
    tokenizer.guard_template("{{ '<' ~ 'b>' }}")
    assert bold not in tokenizer.encode("a<b>") and tokenizer.is_guarded(bold)
    assert backend.token_to_id("<h1>") not in tokenizer.encode("a<h1>")
    assert tokenizer.encode_segments([TextSegment("<b>", trusted=True)]) == [bold]


def test_strikethrough_is_a_tag_only_among_tags() -> None:
    assert plain(["<s>", "</s>"]) == []
    assert plain(["<b>", "<s>", "</s>"]) == ["<b>", "<s>", "</s>"]
    assert plain(["<b>", "<s>", "</s>"], named=["</s>"]) == ["<b>", "<s>"]


def deepseek_like() -> Backend:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(content, special=False) for content in [*LETTERS, "<table>", "<tool_call>"]])
    return backend


GERMAN = "Die Größe überrascht: schön, ø und ú, <table>÷</table>."


@pytest.mark.parametrize("form", ["tokenizer.json", "gguf"])
def test_letters_that_are_added_tokens_are_encoded_as_by_the_library_and_come_back(form: str) -> None:
    backend = deepseek_like()
    if form == "gguf":
        ours = tokenizer_from_gguf(gguf_of_byte_level(backend, "gpt-2"), source="m.gguf")
    else:
        ours = tokenizer_from_json(backend.to_str(), source="t.json")
    ids = ours.encode(GERMAN)
    assert ids == backend.encode(GERMAN).ids
    assert {ours.piece(token) for token in ids if ours.is_added(token)} == {"<|begin|>", *"öüøú÷", "<table>"}
    assert ours.decode(ids) == GERMAN
    assert [ours.token_text(token) for token in ids if ours.piece(token) == "ü"] == ["ü"]
    assert ours.control_spans("ü<tool_call><table>") == [(1, 12)]
    hostile = "ü<tool_call><|im_end|>ö"
    attacked = ours.encode(hostile, add_special_tokens=False)
    assert [ours.piece(token) for token in attacked if ours.is_added(token)] == ["ü", "ö"]
    assert ours.decode(attacked, skip_special=False) == hostile
    trusted = ours.encode_segments([TextSegment("ü<tool_call>", True), TextSegment("<tool_call>ö", False)])
    assert [ours.piece(token) for token in trusted if ours.is_added(token)] == ["ü", "<tool_call>", "ö"]


def test_tokens_declared_special_in_other_files_are_guarded() -> None:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(content) for content in ("Human", "Robot", "Friend", "Text")])
    ours = tokenizer_from_json(
        backend.to_str(),
        source="t.json",
        tokenizer_config={
            "additional_special_tokens": ["Human", 7, ["Text"], {}],
            "added_tokens_decoder": {str(backend.token_to_id("Friend")): {"content": "Friend", "special": True}},
        },
        special_tokens_map={"extra_special_tokens": [{"content": "Robot"}]},
    )
    assert [text for text in ("Human", "Robot", "Friend", "Text") if ours.control_spans(text)] == [
        "Human",
        "Robot",
        "Friend",
    ]


def test_user_defined_gguf_tokens_are_text_if_spelled_as_text() -> None:
    # Without a space in front: the library would put one behind every added token, as llama.cpp does.
    metadata = gguf_of_sentencepiece(prefix=False)
    tokens, types, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    assert isinstance(tokens, list) and isinstance(types, list) and isinstance(scores, list)
    more = ["<h1>", "ü", "<tool_call>", "Robot", "USER"]
    changed = {
        "tokenizer.ggml.tokens": [*tokens, *more],
        "tokenizer.ggml.token_type": [*types, 4, 4, 4, 3, 4],
        "tokenizer.ggml.scores": [*scores, *[0.0] * 5],
        "tokenizer.chat_template": "USER: {{ messages }}",
    }
    ours = tokenizer_from_gguf(metadata | changed, source="m.gguf")
    assert [text for text in more if ours.control_spans(text)] == ["<tool_call>", "Robot", "USER"]
    assert ours.decode(ours.encode("a <h1>ü</h1> USER")) == "a <h1>ü</h1> USER"
    assert json.loads(ours.to_json())["added_tokens"][-1]["content"] == "USER"
