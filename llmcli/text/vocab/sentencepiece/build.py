"""Building a tokenizer from a SentencePiece model."""

from __future__ import annotations

from tokenizers import Regex, models, normalizers
from tokenizers import Tokenizer as Backend

from llmcli.text.expansion_limit import charsmap_growth, refuse_rule
from llmcli.text.token_bytes import SPACE
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.sentencepiece.bpe import SpacePrefix, sentencepiece_bpe, set_space_rules
from llmcli.text.vocab.sentencepiece.model_file import BPE, SentencePieceModel
from llmcli.text.vocab.token_types import NORMAL, UNKNOWN, USER_DEFINED, add_tokens

# So improbable that no text is ever cut into such a piece. Text that spells one is not that piece.
_NEVER = -1e6
# SentencePiece gives pieces added by hand scores of its own, whatever the file says: this much for each byte but one.
_ADDED_BY_HAND = 0.1


def sentencepiece_backend(model: SentencePieceModel, *, prefix: SpacePrefix) -> Backend:
    """A tokenizer that gives the ids of SentencePiece, but for what `prefix` says of its space in front.

    Raises:
        CheckpointError: rules or pieces that make no tokenizer.
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
        add_tokens(backend, vocabulary, space_runs=False)
    return backend


def _unigram(model: SentencePieceModel) -> models.Unigram:
    vocabulary = model.vocabulary
    if UNKNOWN not in vocabulary.types:
        raise vocabulary.error("there is no unknown token.")
    scores = [
        _ADDED_BY_HAND * (len(token.encode()) - 1)
        if kind == USER_DEFINED
        else (score if kind in (NORMAL, UNKNOWN) else _NEVER)
        for token, kind, score in zip(vocabulary.tokens, vocabulary.types, model.scores, strict=True)
    ]
    return models.Unigram(
        list(zip(vocabulary.tokens, scores, strict=True)), vocabulary.types.index(UNKNOWN), model.byte_fallback
    )


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    """What is done to text before spaces are escaped."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        refuse_rule(charsmap_growth(model.charsmap), source=model.vocabulary.source)
        charsmap = normalizers.Precompiled(model.charsmap)
        if charsmap.normalize_str("\r") == charsmap.normalize_str("\n"):
            # To the library this pair is one character, of which it would look up the first half only.
            steps.append(normalizers.Replace("\r\n", "\n\n"))
        steps.append(charsmap)
    if model.remove_extra_spaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps
