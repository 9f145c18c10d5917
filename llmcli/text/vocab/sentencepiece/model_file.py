"""Read a SentencePiece `tokenizer.model`: a protocol buffer with pieces, and rules for spaces and normalization.

Field numbers are those of `sentencepiece_model.proto`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.vocab.sentencepiece import protobuf
from llmcli.text.vocab.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, TypedVocabulary, as_spelling

UNIGRAM, BPE = 1, 2
_KINDS = {3: "words", 4: "characters"}

# Fields of ModelProto and of its parts.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SPACE_AS_SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_ROLES = {45: "unk_token", 46: "bos_token", 47: "eos_token", 48: "pad_token"}
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5


@dataclass
class _TrainerSpec:
    """Fields of TrainerSpec, with the defaults of the format."""

    kind: int = UNIGRAM
    space_as_suffix: bool = False
    byte_fallback: bool = False
    roles: dict[str, str] = field(
        default_factory=lambda: {
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
        }
    )


@dataclass
class _NormalizerSpec:
    """Fields of NormalizerSpec, with the defaults of the format."""

    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_spaces: bool = True
    escape_spaces: bool = True


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model, checked for consistency."""

    vocabulary: TypedVocabulary
    scores: list[float]
    kind: int
    """`UNIGRAM` or `BPE`."""
    byte_fallback: bool
    """Whether text without pieces is encoded as bytes."""
    roles: dict[str, str]
    """Spellings of the special tokens in the vocabulary, by role (`bos_token`, ...)."""
    charsmap: bytes
    """Character replacements, compiled to a trie; empty if there are none."""
    add_dummy_prefix: bool
    """Whether a space is added before text."""
    remove_extra_spaces: bool
    """Whether leading and trailing spaces are removed, and runs of spaces become one."""


def read_sentencepiece_model(data: bytes, *, source: str) -> SentencePieceModel:
    """Parse and check the model in the file at `source` with the contents `data`.

    Raises:
        CheckpointError: the file is truncated, damaged or of another format.
        UnsupportedModelError: the kind of model is not supported; no language model uses it.
    """
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer, normalizer = _TrainerSpec(), _NormalizerSpec()
    try:
        for number, _, value in protobuf.fields(data):
            if not isinstance(value, bytes):
                continue
            if number == _PIECES:
                token, score, kind = _read_piece(value)
                tokens.append(as_spelling(token, len(tokens)))
                scores.append(score)
                types.append(kind)
            elif number == _TRAINER:
                _read_trainer(value, trainer)
            elif number == _NORMALIZER:
                _read_normalizer(value, normalizer)
    except protobuf.WireError as error:
        raise CheckpointError(f"{source} is not a SentencePiece model ({error}); download it again.") from None
    if not tokens:
        raise CheckpointError(f"{source} is not a SentencePiece model: it has no vocabulary.")
    vocabulary = TypedVocabulary(source, tokens, types)
    if not all(map(math.isfinite, scores)):
        raise vocabulary.error("a score is not a number.")
    if len(set(tokens)) != len(tokens):
        raise vocabulary.error("two tokens are spelled the same.")
    if trainer.kind not in (UNIGRAM, BPE) or trainer.space_as_suffix or not normalizer.escape_spaces:
        what = _KINDS.get(trainer.kind, "an unknown kind") if trainer.kind not in (UNIGRAM, BPE) else "other spaces"
        raise UnsupportedModelError(
            f"{source} is a SentencePiece model of {what}; supported are BPE and unigram models that write spaces "
            "before words."
        )
    return SentencePieceModel(
        vocabulary=vocabulary,
        scores=scores,
        kind=trainer.kind,
        byte_fallback=trainer.byte_fallback and types.count(BYTE) == 256,
        roles=_present_roles(vocabulary, trainer.roles),
        charsmap=normalizer.charsmap,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_spaces=normalizer.remove_extra_spaces,
    )


def _read_piece(data: bytes) -> tuple[str, float, int]:
    token, score, kind = "", 0.0, NORMAL
    for number, wire, value in protobuf.fields(data):
        if number == _PIECE and isinstance(value, bytes):
            token = value.decode("utf-8", "surrogateescape")
        elif number == _SCORE and wire == protobuf.FIXED32 and isinstance(value, bytes):
            score = float(struct.unpack("<f", value)[0])
        elif number == _TYPE and isinstance(value, int):
            kind = value
    return token, score, kind


def _read_trainer(data: bytes, spec: _TrainerSpec) -> None:
    for number, _, value in protobuf.fields(data):
        if isinstance(value, bytes):
            if number in _ROLES:
                spec.roles[_ROLES[number]] = value.decode("utf-8", "replace")
        elif number == _MODEL_TYPE:
            spec.kind = value
        elif number == _SPACE_AS_SUFFIX:
            spec.space_as_suffix = bool(value)
        elif number == _BYTE_FALLBACK:
            spec.byte_fallback = bool(value)


def _read_normalizer(data: bytes, spec: _NormalizerSpec) -> None:
    for number, _, value in protobuf.fields(data):
        if isinstance(value, bytes):
            if number == _CHARSMAP:
                spec.charsmap = value
        elif number == _DUMMY_PREFIX:
            spec.add_dummy_prefix = bool(value)
        elif number == _REMOVE_SPACES:
            spec.remove_extra_spaces = bool(value)
        elif number == _ESCAPE_SPACES:
            spec.escape_spaces = bool(value)


def _present_roles(vocabulary: TypedVocabulary, roles: dict[str, str]) -> dict[str, str]:
    """The roles whose tokens exist and are control tokens: the format's defaults include tokens that may not exist."""
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {
        role: token
        for role, token in roles.items()
        if kinds.get(token) == (UNKNOWN if role == "unk_token" else CONTROL)
    }
