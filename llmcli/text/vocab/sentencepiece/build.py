"""Build a tokenizer from a SentencePiece model."""

from __future__ import annotations

from tokenizers import Regex, models, normalizers
from tokenizers import Tokenizer as Backend

from llmcli.text.expansion_limit import charsmap_growth, refuse_rule
from llmcli.text.token_bytes import SPACE
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.sentencepiece.bpe import SpacePrefix, sentencepiece_bpe, set_space_rules
from llmcli.text.vocab.sentencepiece.model_file import BPE, SentencePieceModel
from llmcli.text.vocab.token_types import NORMAL, UNKNOWN, USER_DEFINED, add_tokens, added_tokens

# A score so low that text is never split into such a piece, for control tokens.
_NEVER = -1e6
# SentencePiece ignores the file's scores of user-defined pieces: it uses this per byte, without the first.
_USER_DEFINED_SCORE = 0.1


def sentencepiece_backend(model: SentencePieceModel, *, prefix: SpacePrefix) -> Backend:
    """Build a tokenizer that gives the same ids as SentencePiece, except that `prefix` decides about leading spaces.

    Raises:
        CheckpointError: the rules or pieces are damaged.
    """
    vocabulary = model.vocabulary
    with wrap_tokenizer_errors(f"{vocabulary.source} has a damaged tokenizer"):
        if model.kind == BPE:
            unknown = vocabulary.types.index(UNKNOWN) if UNKNOWN in vocabulary.types else None
            backend = Backend(sentencepiece_bpe(vocabulary, model.scores, unknown, byte_fallback=model.byte_fallback))
        else:
            backend = Backend(_unigram(model))
        set_space_rules(
            backend,
            prefix,
            before=_normalizers(model),
            byte_fallback=model.byte_fallback,
            strip=prefix != "none" or model.remove_extra_spaces,
        )
        add_tokens(backend, added_tokens(vocabulary, space_runs=False).values())
    return backend


def _unigram(model: SentencePieceModel) -> models.Unigram:
    vocabulary = model.vocabulary
    if UNKNOWN not in vocabulary.types:
        raise vocabulary.error("there is no unknown token.")
    scores = [
        _USER_DEFINED_SCORE * (len(token.encode()) - 1)
        if kind == USER_DEFINED
        else (score if kind in (NORMAL, UNKNOWN) else _NEVER)
        for token, kind, score in zip(vocabulary.tokens, vocabulary.types, model.scores, strict=True)
    ]
    return models.Unigram(
        list(zip(vocabulary.tokens, scores, strict=True)), vocabulary.types.index(UNKNOWN), model.byte_fallback
    )


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    """The normalizers applied before spaces are escaped."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        refuse_rule(charsmap_growth(model.charsmap), source=model.vocabulary.source)
        charsmap = normalizers.Precompiled(model.charsmap)
        if charsmap.normalize_str("\r") == charsmap.normalize_str("\n"):
            # The library treats this pair as one character and would look up only its first half.
            steps.append(normalizers.Replace("\r\n", "\n\n"))
        steps.append(charsmap)
    if model.remove_extra_spaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps
