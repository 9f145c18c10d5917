"""The tokens that end the model's turn, collected from all files and keys, since hardly any file names all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.text.tokenizer import Tokenizer

KNOWN_END_OF_TURN: tuple[str, ...] = (
    "<|eot_id|>",
    "<|eot|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|assistant_end|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "_<EOT>",
    "</longcat_s>",
)
"""Spellings of control tokens that end a turn in every model that has them."""

KNOWN = "known as"
"""Prefix of the origin of a stop token that no file names."""

# If both of a pair exist, a turn has several messages, and <|end|> ends only one of them: gpt-oss, and Solar Open.
_HARMONY = ("<|return|>", "<|call|>")
_SOLAR = ("<|flush|>", "<|calls|>")


NO_STOP_TOKEN = "No stop token is known: a reply ends only at --max-tokens, a --stop text or the end of the context."
"""The note about a model without stop tokens."""


def stop_ids(
    tokenizer: Tokenizer, declared: Mapping[str, object]
) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    """Every id that ends a reply, with the files or keys that declare it; and notes for the user.

    `declared` maps each file or metadata key to an id, a list of ids, or None. Ids outside the vocabulary are never
    generated, so they are skipped with a note. Added to these are the tokenizer's EOS and the control tokens in
    `KNOWN_END_OF_TURN`; ordinary vocabulary never counts.
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
                f"{place} declares {shown} as a stop token, but the vocabulary has {tokenizer.vocab_size} tokens; "
                "not used."
            )
    if tokenizer.eos_id is not None:
        origins.setdefault(tokenizer.eos_id, []).append("tokenizer")
    known = {text: tokenizer.token_to_id(text) for text in KNOWN_END_OF_TURN}
    if is_harmony(tokenizer) or _has_all(tokenizer, _SOLAR):
        del known["<|end|>"]
    for text, found in known.items():
        if found is not None and _is_added(tokenizer, found):
            origins.setdefault(found, []).append(f"{KNOWN} {text}")
    if not origins:
        notes.append(NO_STOP_TOKEN)
    return {token: tuple(dict.fromkeys(places)) for token, places in origins.items()}, tuple(notes)


def as_token_id(value: object, vocab_size: int) -> int | None:
    """`value` from a file as a token id; None if it is not one. Some files write ids as floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_id = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size
    return value if is_id else None  # type: ignore[return-value]


def is_no_id(value: object) -> bool:
    """Whether `value` in a GGUF file means that there is no such token."""
    return value in (-1, 2**32 - 1)


def is_harmony(tokenizer: Tokenizer) -> bool:
    """Whether the model uses OpenAI's harmony format, where a turn has several messages, each with its own end."""
    return _has_all(tokenizer, _HARMONY)


def _has_all(tokenizer: Tokenizer, texts: tuple[str, ...]) -> bool:
    return all(_is_added(tokenizer, tokenizer.token_to_id(text)) for text in texts)


def _is_added(tokenizer: Tokenizer, token: int | None) -> bool:
    return token is not None and tokenizer.is_added(token)
