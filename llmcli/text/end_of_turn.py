"""Which tokens end the model's turn. A file rarely names them all, so every place that names one counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmcli.errors import CheckpointError

if TYPE_CHECKING:
    from llmcli.text.tokenizer import Tokenizer

KNOWN_END_OF_TURN: tuple[str, ...] = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)
"""Spellings of control tokens that end a turn in every model that has them."""

# Where both of these exist a turn has several messages, and <|end|> only ends one of them.
_HARMONY = ("<|return|>", "<|call|>")


def stop_ids(tokenizer: Tokenizer, declared: Mapping[str, Sequence[int]]) -> dict[int, tuple[str, ...]]:
    """Every id that ends a reply, with the places that say so.

    `declared` holds the ids named by each file or metadata key. To these come the tokenizer's own EOS and the control
    tokens whose spelling is known to end a turn; ordinary vocabulary never counts.

    Raises:
        CheckpointError: a declared id is not in the vocabulary.
    """
    origins: dict[int, list[str]] = {}
    for place, ids in declared.items():
        for token in ids:
            if not 0 <= token < tokenizer.vocab_size:
                raise CheckpointError(
                    f"{place} names {token} as a token that ends a reply, "
                    f"but the vocabulary has {tokenizer.vocab_size} tokens."
                )
            origins.setdefault(token, []).append(place)
    if tokenizer.eos_id is not None:
        origins.setdefault(tokenizer.eos_id, []).append("tokenizer")
    known = {text: tokenizer.token_to_id(text) for text in KNOWN_END_OF_TURN}
    if all(_is_added(tokenizer, known[text]) for text in _HARMONY):
        del known["<|end|>"]
    for text, found in known.items():
        if found is not None and _is_added(tokenizer, found):
            origins.setdefault(found, []).append(f"known as {text}")
    return {token: tuple(dict.fromkeys(places)) for token, places in origins.items()}


def _is_added(tokenizer: Tokenizer, token: int | None) -> bool:
    return token is not None and tokenizer.is_added(token)
