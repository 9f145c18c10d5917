"""SentencePiece BPE for the `tokenizers` library: merges derived from scores, and spaces as part of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmcli.text.token_bytes import SPACE
from llmcli.text.vocab.token_types import BYTE, NORMAL, TypedVocabulary

# Real pieces are much shorter; the number of splits to try grows with the length of a piece.
_LONGEST_PIECE = 512

SpacePrefix: TypeAlias = Literal["none", "first", "every"]
"""Where a leading space is added: nowhere, at the beginning of the text, or also after every added token."""


def sentencepiece_bpe(
    vocabulary: TypedVocabulary, scores: Sequence[float], unknown: int | None, *, byte_fallback: bool = True
) -> models.BPE:
    """Build the BPE model that merges pieces as SentencePiece does, by the scores of the results.

    `unknown` is the id for text that has no pieces; with `byte_fallback` such text is encoded as bytes.

    Raises:
        CheckpointError: the arrays are inconsistent, or some text could not be encoded.
    """
    if len(scores) != len(vocabulary.tokens):
        raise vocabulary.error(f"{len(vocabulary.tokens)} tokens, but scores for {len(scores)} of them.")
    if unknown is None and (not byte_fallback or vocabulary.types.count(BYTE) < 256):
        raise vocabulary.error("there is neither an unknown token nor one for each byte.")
    tokens = [_piece(vocabulary, index) for index in range(len(scores))]
    if len(set(tokens)) != len(tokens):
        raise vocabulary.error("two tokens are spelled the same.")
    return models.BPE(
        {token: index for index, token in enumerate(tokens)},
        _merges(vocabulary, tokens, scores),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=byte_fallback,
    )


def set_space_rules(
    backend: Backend,
    prefix: SpacePrefix,
    *,
    before: Sequence[normalizers.Normalizer] = (),
    byte_fallback: bool = True,
    strip: bool | None = None,
) -> None:
    """Make `backend` encode and decode spaces as SentencePiece does, after the normalizers `before`.

    With `strip` decoding removes one space from the beginning of a text; by default if encoding adds one.
    """
    escape = normalizers.Replace(" ", SPACE)
    prepend = [normalizers.Prepend(SPACE)] if prefix == "every" else []
    backend.normalizer = normalizers.Sequence([*before, *prepend, escape])
    if prefix == "first":
        # `Metaspace` adds its character only before text that does not begin with it. The normalized text has no
        # spaces, so the first step always adds one; the second replaces it by the character that the pieces use.
        steps = (
            pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    fallback = [decoders.ByteFallback()] if byte_fallback else []
    stripped = [decoders.Strip(" ", 1, 0)] if (prefix != "none" if strip is None else strip) else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *fallback, decoders.Fuse(), *stripped])


def _piece(vocabulary: TypedVocabulary, index: int) -> str:
    """A piece as it appears in normalized text; runs of spaces are stored as plain spaces."""
    token = vocabulary.tokens[index]
    return token.replace(" ", SPACE) if vocabulary.is_space_run(index) else token


def _merges(vocabulary: TypedVocabulary, tokens: list[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of pieces that merge to a piece, in the order of SentencePiece.

    It merges the pair whose result has the highest score first; user-defined pieces come before all others.
    """
    user_defined = [index for index in range(len(tokens)) if vocabulary.is_space_run(index)]
    ids = {token: index for index, token in enumerate(tokens) if vocabulary.types[index] == NORMAL}
    ids |= {tokens[index]: index for index in user_defined}
    priority = {index: -scores[index] for index in ids.values()} | dict.fromkeys(user_defined, float("-inf"))
    ranked = []
    for piece, index in ids.items():
        if len(piece) > _LONGEST_PIECE:
            raise vocabulary.error(f"token {index} has {len(piece)} characters.")
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((priority[index], left, right))
    ranked.sort()
    return [(tokens[left], tokens[right]) for _, left, right in ranked]
