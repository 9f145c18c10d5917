"""Which tokens end the model's turn. A file rarely names them all, so every place that names one counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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

KNOWN = "known as"
"""The origin of a stop token that no file names begins with this."""

# Where both of these exist a turn has several messages, and <|end|> only ends one of them.
_HARMONY = ("<|return|>", "<|call|>")


NO_STOP_TOKEN = "No token is known to end a reply: it goes on until --max-tokens, a --stop text or the context ends it."
"""Said of a model without stop tokens."""


def stop_ids(
    tokenizer: Tokenizer, declared: Mapping[str, object]
) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    """Every id that ends a reply, with the places that say so; and what the user should know about them.

    `declared` holds what each file or metadata key names: an id, a list of them, or nothing. An id that the vocabulary
    does not have is never generated, so it is passed over, and the notes say so. To the others come the tokenizer's
    own EOS and the control tokens whose spelling is known to end a turn; ordinary vocabulary never counts.
    """
    origins: dict[int, list[str]] = {}
    notes = []
    for place, named in declared.items():
        values = named if isinstance(named, list) else [] if named is None else [named]
        unknown = []
        for value in values:
            token = as_token_id(value, tokenizer.vocab_size)
            if token is None:
                unknown.append(f"{value!r:.40}")
            else:
                origins.setdefault(token, []).append(place)
        if unknown:
            shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
            notes.append(
                f"{place} names {shown} as a token that ends a reply, but the vocabulary has "
                f"{tokenizer.vocab_size} tokens; not used."
            )
    if tokenizer.eos_id is not None:
        origins.setdefault(tokenizer.eos_id, []).append("tokenizer")
    known = {text: tokenizer.token_to_id(text) for text in KNOWN_END_OF_TURN}
    if is_harmony(tokenizer):
        del known["<|end|>"]
    for text, found in known.items():
        if found is not None and _is_added(tokenizer, found):
            origins.setdefault(found, []).append(f"{KNOWN} {text}")
    if not origins:
        notes.append(NO_STOP_TOKEN)
    return {token: tuple(dict.fromkeys(places)) for token, places in origins.items()}, tuple(notes)


def as_token_id(value: object, vocab_size: int) -> int | None:
    """`value` from a file as the id of a token; None if it is not one. Some files write whole numbers as floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size
    return value if is_id else None  # type: ignore[return-value]


def is_no_id(value: object) -> bool:
    """Whether a GGUF file says with `value` that there is no such token."""
    return value in (-1, 2**32 - 1)


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether a turn of the model consists of several messages, each with an end of its own."""
    return all(_is_added(tokenizer, tokenizer.token_to_id(text)) for text in _HARMONY)


def _is_added(tokenizer: Tokenizer, token: int | None) -> bool:
    return token is not None and tokenizer.is_added(token)
