"""A text to continue or to score gets the tokenizer's beginning, but not its end."""

from __future__ import annotations

import pytest
from tokenizers import processors

from llmcli.errors import CheckpointError
from llmcli.text.vocab.load import tokenizer_from_gguf, tokenizer_from_json
from tests.support.text.tokenizers import byte_level_backend, gguf_of_byte_level, gguf_of_sentencepiece, wrapped

BEGIN, START, END = 0, 1, 2
_BOS, _EOS = ("<|begin|>", BEGIN), ("<|im_end|>", END)


def around(single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[_BOS, ("<|im_start|>", START), _EOS])


@pytest.mark.parametrize(
    ("post_processor", "beginning"),
    [
        (None, []),
        (processors.ByteLevel(), []),
        (around("<|begin|> $A <|im_end|>"), [BEGIN]),
        (around("$A <|im_end|>"), []),
        (around("<|begin|> <|im_start|> $A <|im_end|> <|im_end|>"), [BEGIN, START]),
        (processors.BertProcessing(_EOS, _BOS), [BEGIN]),
        (processors.RobertaProcessing(_EOS, _BOS), [BEGIN]),
        (processors.Sequence([processors.ByteLevel(), around("<|begin|> $A <|im_end|>")]), [BEGIN]),
        (processors.Sequence([processors.RobertaProcessing(_EOS, _BOS), processors.ByteLevel()]), [BEGIN]),
    ],
)
@pytest.mark.parametrize("text", ["The quick fox", "", "<|im_end|>"])
def test_only_tokens_before_the_text_are_added(
    post_processor: processors.PostProcessor | None, beginning: list[int], text: str
) -> None:
    backend = byte_level_backend()
    backend.post_processor = post_processor
    ours = wrapped(backend)
    assert ours.encode(text) == [*beginning, *ours.encode(text, add_special_tokens=False)]
    assert END not in ours.encode(text)
    if text.startswith("The"):
        # The library's own result differs only by the end.
        theirs = backend.encode(text).ids
        assert theirs[: len(ours.encode(text))] == ours.encode(text)


@pytest.mark.parametrize("metadata", [gguf_of_byte_level(byte_level_backend(), "gpt-2"), gguf_of_sentencepiece()])
def test_flags_of_gguf_files_add_no_ending(metadata: dict[str, object]) -> None:
    flags = {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.add_sep_token": True}
    ours = tokenizer_from_gguf(metadata | flags | {"tokenizer.ggml.seperator_token_id": 2}, source="m.gguf")
    assert ours.encode("The fox") == tokenizer_from_gguf(metadata, source="m.gguf").encode("The fox")
    assert ours.eos_id not in ours.encode("The fox")


def test_a_beginning_outside_the_vocabulary_is_refused() -> None:
    backend = byte_level_backend()
    backend.post_processor = processors.RobertaProcessing(_EOS, ("<s>", 50_000))
    with pytest.raises(CheckpointError, match=r"t\.json adds the token 50000 before every text"):
        tokenizer_from_json(backend.to_str(), source="t.json")
