"""Llama 3's own `tokenizer.model`: tokens in base64 with their ranks, one per line.

The file has neither the word expression nor the control tokens; both are part of Llama 3's code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.vocab.bpe.pretokenizers import LLAMA3_WORDS
from llmcli.text.vocab.bpe.rank_bpe import rank_bpe_backend, token_of_base64

LLAMA3_ROLES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
"""Control tokens of Llama 3 by role."""
LLAMA3_TOKENS = 128_000
"""Number of Llama 3's tokens without the control tokens."""
_LLAMA3_SPECIAL_TOKENS = 256
_LLAMA3_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]{1,9}\r?\n?")


def is_tiktoken_model(data: bytes) -> bool:
    """Whether the contents of a `tokenizer.model` begin with a line of this format, unlike SentencePiece models."""
    return _LINE.match(data) is not None


def llama3_backend(data: bytes, *, names: Mapping[int, str], source: str, count: int = LLAMA3_TOKENS) -> Backend:
    """Build Llama 3's tokenizer from the contents `data` of the file at `source`.

    `names` are spellings of control tokens by id, which later versions of Llama 3 changed; `count` is the number of
    tokens that the file must have.

    Raises:
        CheckpointError: the file is damaged.
        UnsupportedModelError: it is another vocabulary, whose word expression is not known.
    """
    ranked = _ranked_tokens(data, source)
    if len(ranked) != count:
        raise UnsupportedModelError(
            f"{source} has {len(ranked)} tokens in tiktoken's format, but only Llama 3's vocabulary of {count} is "
            "supported; put a tokenizer.json next to it, which is used instead."
        )
    special = {
        index: AddedToken(names.get(index, content), special=True, normalized=False)
        for index, content in enumerate(llama3_special_tokens(), start=count)
    }
    return rank_bpe_backend(ranked, special, first_id=0, words=LLAMA3_WORDS, bos=special[count].content, source=source)


def llama3_special_tokens() -> list[str]:
    """The control tokens that follow the vocabulary; the reserved ones are numbered from 0."""
    reserved = iter(range(_LLAMA3_SPECIAL_TOKENS))
    return [
        _LLAMA3_NAMED.get(place) or f"<|reserved_special_token_{next(reserved)}|>"
        for place in range(_LLAMA3_SPECIAL_TOKENS)
    ]


def _ranked_tokens(data: bytes, source: str) -> list[bytes]:
    """The tokens by rank."""
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        if _LINE.fullmatch(line) is None:
            raise CheckpointError(f"{source} is damaged in line {number}: it is not a token in base64 and its rank.")
        token, rank = line.split()
        tokens[int(rank)] = token_of_base64(token.decode(), source=source)
    if sorted(tokens) != list(range(len(tokens))):
        raise CheckpointError(f"{source} is damaged: the ranks of its tokens have gaps.")
    return [tokens[rank] for rank in range(len(tokens))]
