"""Vocabularies in tiktoken's format: tokens in base64 with their ranks, one per line.

A file has neither the word expression nor the control tokens; both are part of the model's own code, and here data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.vocab.bpe.pretokenizers import KIMI_WORDS, LLAMA3_WORDS, QWEN2_WORDS
from llmcli.text.vocab.bpe.rank_bpe import rank_bpe_backend, token_of_base64

_RESERVED = 256
_LLAMA3_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
_HUNYUAN_NAMED = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>")
_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]{1,9}\r?\n?")


@dataclass(frozen=True)
class TiktokenVocabulary:
    """What the code of a model says about its vocabulary in this format."""

    model: str
    words: str
    """The regular expression for words, within which merges happen."""
    special_tokens: Callable[[int], list[str]]
    """The control tokens that follow the vocabulary, from the id of the first one."""
    roles: Mapping[str, str]
    """Control tokens by role."""
    count: int | None = None
    """The number of tokens without the control tokens; None: any."""
    begins: bool = False
    """Whether texts begin with the first of the control tokens."""
    composed: bool = False
    """Whether characters are composed first (Unicode's NFC)."""
    numbered: bool = True
    """Whether ranks are the numbers in the file; otherwise repeated tokens are skipped and the rest is counted."""


def _llama3_special_tokens(first: int) -> list[str]:
    reserved = iter(range(_RESERVED))
    return [_LLAMA3_NAMED.get(place) or f"<|reserved_special_token_{next(reserved)}|>" for place in range(_RESERVED)]


def _kimi_special_tokens(first: int) -> list[str]:
    """Those with a use are named in tokenizer_config.json."""
    return [f"<|reserved_token_{index}|>" for index in range(first, first + _RESERVED)]


def _hunyuan_special_tokens(first: int) -> list[str]:
    return [*_HUNYUAN_NAMED, *(f"<|extra_{number}|>" for number in range(205))]


LLAMA3 = TiktokenVocabulary(
    "Llama 3",
    LLAMA3_WORDS,
    _llama3_special_tokens,
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    count=128_000,
    begins=True,
)
"""Llama 3's own `tokenizer.model`."""
KIMI = TiktokenVocabulary("Kimi", KIMI_WORDS, _kimi_special_tokens, {"bos_token": "[BOS]", "eos_token": "[EOS]"})
"""`tiktoken.model` of Kimi-K2, Kimi-Linear and Moonlight."""
HUNYUAN = TiktokenVocabulary(
    "Hunyuan",
    QWEN2_WORDS,
    _hunyuan_special_tokens,
    {"bos_token": "<|startoftext|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"},
    composed=True,
    numbered=False,
)
"""`hy.tiktoken` of Hunyuan."""

VOCABULARIES: Mapping[str, TiktokenVocabulary] = {
    "tokenizer.model": LLAMA3,
    "tiktoken.model": KIMI,
    "hy.tiktoken": HUNYUAN,
}
"""The vocabularies by the names of their files."""


def is_tiktoken_model(data: bytes) -> bool:
    """Whether the contents of a file begin with a line of this format, unlike SentencePiece models."""
    return _LINE.match(data) is not None


def tiktoken_backend(
    data: bytes, vocabulary: TiktokenVocabulary, *, named: Mapping[int, AddedToken], source: str
) -> Backend:
    """Build the tokenizer of the file at `source` with the contents `data`.

    `named` are control tokens by id that files next to it name, in place of those that the model's code names.

    Raises:
        CheckpointError: the file is damaged.
        UnsupportedModelError: it is another vocabulary, whose word expression is not known.
    """
    ranked = _ranked_tokens(data, source, numbered=vocabulary.numbered)
    if vocabulary.count not in (None, len(ranked)):
        raise UnsupportedModelError(
            f"{source} has {len(ranked)} tokens in tiktoken's format, but only {vocabulary.model}'s vocabulary of "
            f"{vocabulary.count} is supported in a file of this name; put a tokenizer.json next to it, which is used "
            "instead."
        )
    special = {
        index: named.get(index, AddedToken(content, special=True, normalized=False))
        for index, content in enumerate(vocabulary.special_tokens(len(ranked)), start=len(ranked))
    }
    # Where texts begin with a token, it is the first of them.
    bos = special[len(ranked)].content if vocabulary.begins else ""
    backend = rank_bpe_backend(ranked, special, first_id=0, words=vocabulary.words, bos=bos, source=source)
    if vocabulary.composed:
        backend.normalizer = normalizers.NFC()
    return backend


def _ranked_tokens(data: bytes, source: str, *, numbered: bool) -> list[bytes]:
    """The tokens by rank."""
    tokens: list[tuple[int, bytes]] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        if _LINE.fullmatch(line) is None:
            raise CheckpointError(f"{source} is damaged in line {number}: it is not a token in base64 and its rank.")
        token, rank = line.split()
        tokens.append((int(rank), token_of_base64(token.decode(), source=source)))
    if not numbered:
        return list(dict.fromkeys(token for _, token in tokens))
    ranked = dict(tokens)
    if sorted(ranked) != list(range(len(ranked))):
        raise CheckpointError(f"{source} is damaged: the ranks of its tokens have gaps.")
    return [ranked[rank] for rank in range(len(ranked))]
