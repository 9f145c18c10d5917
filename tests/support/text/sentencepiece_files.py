"""Vocabularies trained by the reference implementation of SentencePiece."""

from __future__ import annotations

import functools
import io

from tests.support.text.strings import many_texts
from tests.support.text.tokenizers import CORPUS


@functools.cache
def trained(
    kind: str, prefix: bool = True, collapse: bool = False, rule: str = "identity", byte_fallback: bool = True
) -> bytes:
    """A `tokenizer.model` trained by the reference implementation."""
    import sentencepiece

    written = io.BytesIO()
    lines = [line for text in [*CORPUS, *many_texts(60, seed=1, without="\0")] for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type=kind,
        vocab_size=700 if byte_fallback else 450,
        hard_vocab_limit=False,
        byte_fallback=byte_fallback,
        character_coverage=0.99,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=collapse,
        normalization_rule_name=rule,
        control_symbols=["<|im_start|>", "<|im_end|>"],
        user_defined_symbols=["<think>"] if collapse else ["<think>", "▁▁", "▁▁▁", "▁▁▁▁"],
        pad_id=3,
        minloglevel=2,
    )
    return written.getvalue()
