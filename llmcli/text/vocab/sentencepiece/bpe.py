"""SentencePiece BPE for the `tokenizers` library: merges derived from scores, and spaces as part of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llmcli.text.token_bytes import SPACE
from llmcli.text.vocab.token_types import BYTE, NORMAL, TypedVocabulary

# Real pieces are much shorter; the number of splits to try grows with the length of a piece.
LONGEST_PIECE = 512

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
    check_pieces(vocabulary, scores, unknown, byte_fallback=byte_fallback)
    pieces = {index: piece_of(vocabulary, index) for index in range(len(scores))}
    if len(set(pieces.values())) != len(pieces):
        raise vocabulary.error("two tokens are spelled the same.")
    return bpe_of_pieces(vocabulary, pieces, scores, unknown, byte_fallback=byte_fallback)


def check_pieces(
    vocabulary: TypedVocabulary, scores: Sequence[float], unknown: int | None, *, byte_fallback: bool = True
) -> None:
    """Check that there is a score for each token, and a way to encode any text.

    Raises:
        CheckpointError: there is not.
    """
    if len(scores) != len(vocabulary.tokens):
        raise vocabulary.error(f"{len(vocabulary.tokens)} tokens, but scores for {len(scores)} of them.")
    if unknown is None and (not byte_fallback or vocabulary.types.count(BYTE) < 256):
        raise vocabulary.error("there is neither an unknown token nor one for each byte.")


def bpe_of_pieces(
    vocabulary: TypedVocabulary,
    pieces: Mapping[int, str],
    scores: Sequence[float],
    unknown: int | None,
    *,
    byte_fallback: bool = True,
) -> models.BPE:
    """Build the BPE model of some tokens of a vocabulary, `unknown` among them: `pieces` are their spellings by id.

    Raises:
        CheckpointError: a piece is too long.
    """
    return models.BPE(
        {piece: index for index, piece in pieces.items()},
        _merges(vocabulary, pieces, scores),
        unk_token=None if unknown is None else pieces[unknown],
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


def piece_of(vocabulary: TypedVocabulary, index: int) -> str:
    """A piece as it appears in normalized text; runs of spaces are stored as plain spaces."""
    token = vocabulary.tokens[index]
    return token.replace(" ", SPACE) if vocabulary.is_space_run(index) else token


def _merges(vocabulary: TypedVocabulary, pieces: Mapping[int, str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of `pieces` that merge to a piece, in the order of SentencePiece.

    It merges the pair whose result has the highest score first; user-defined pieces come before all others.
    """
    types = vocabulary.types
    ids = {piece: index for index, piece in pieces.items() if types[index] == NORMAL}
    user_defined = {index for index in pieces if vocabulary.is_space_run(index)}
    ids |= {pieces[index]: index for index in user_defined}
    ranked = []
    for piece, index in ids.items():
        if len(piece) > LONGEST_PIECE:
            raise vocabulary.error(f"token {index} has {len(piece)} characters.")
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
            if left is not None and right is not None:
                priority = float("-inf") if index in user_defined else -scores[index]
                ranked.append((priority, left, right))
    ranked.sort()
    return [(pieces[left], pieces[right]) for _, left, right in ranked]
