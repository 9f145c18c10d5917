"""Small vocabularies in the formats of tiktoken and Mistral's tekken.json."""

from __future__ import annotations

import base64
import functools
import itertools
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from llmcli.text.token_bytes import byte_alphabet
from llmcli.text.vocab.bpe.pretokenizers import TEKKEN_WORDS, byte_level_pre_tokenizer
from tests.support.text.strings import many_texts
from tests.support.text.tokenizers import CORPUS


def cut(words: str, text: str) -> list[bytes]:
    """The words of a text, in bytes."""
    pieces = pre_tokenizers.Split(Regex(words), "isolated").pre_tokenize_str(text)
    return [piece.encode() for piece, _ in pieces]


@functools.cache
def ranked(words: str, merges: int = 250) -> tuple[bytes, ...]:
    """A vocabulary trained by joining the most frequent pair again and again."""
    sample = [word for text in [*CORPUS, *many_texts(60, seed=1)] for word in cut(words, text)]
    split = [[bytes([byte]) for byte in word] for word in sample]
    tokens = [bytes([byte]) for byte in range(256)]
    for _ in range(merges):
        counts: dict[bytes, int] = {}
        for parts in split:
            for left, right in itertools.pairwise(parts):
                counts[left + right] = counts.get(left + right, 0) + 1
        best = max((count, token) for token, count in counts.items() if token not in tokens)[1]
        tokens.append(best)
        split = [joined(parts, best) for parts in split]
    # A token that no sequence of merges produces.
    return (*tokens, b"SHOUTING")


def joined(parts: list[bytes], token: bytes) -> list[bytes]:
    out: list[bytes] = []
    at = 0
    while at < len(parts):
        pair = b"".join(parts[at : at + 2])
        step = 2 if pair == token and at + 1 < len(parts) else 1
        out.append(pair if step == 2 else parts[at])
        at += step
    return out


def tekken_data(**changes: Any) -> dict[str, Any]:
    tokens = ranked(TEKKEN_WORDS)
    entries = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for rank, token in enumerate(tokens)]
    # Files hold more tokens than models use.
    entries += [{"rank": len(tokens), "token_bytes": base64.b64encode(b"never used").decode()}]
    config = {
        "pattern": TEKKEN_WORDS,
        "num_vocab_tokens": len(entries),
        "default_vocab_size": len(tokens) + 30,
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    return {"config": config | changes.pop("config", {}), "vocab": entries} | changes


def lines(tokens: Iterable[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]


def converted(words: str, control: list[str] = CONTROL) -> Backend:
    """A tekken vocabulary of single bytes and one pair of digits, as it is saved in a tokenizer.json."""
    names = control + [f"<SPECIAL_{index}>" for index in range(len(control), 1000)]
    letters = [letter for letter, _ in sorted(byte_alphabet().items(), key=lambda item: item[1])]
    ids = {token: index for index, token in enumerate([*names, *letters, "12"])}
    backend = Backend(models.BPE(ids, [("1", "2")], ignore_merges=True))
    backend.pre_tokenizer = byte_level_pre_tokenizer(words)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(control)
    return backend
