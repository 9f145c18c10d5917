"""The tokens that end repetitions for DRY. Imports no torch, so that settings can be checked without it."""

from __future__ import annotations

from functools import lru_cache

from llmcli.engine.sampling.params import SamplingParams
from llmcli.errors import UsageError
from llmcli.text.tokenizer import Tokenizer


def breakers_of(params: SamplingParams, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end repetitions with these settings; none if DRY is off.

    Raises:
        UsageError: no token contains one of the settings' sequence breakers.
    """
    texts = params.dry_sequence_breakers if params.dry_multiplier else ()
    return sequence_breakers(tokenizer, texts) if texts else frozenset()


@lru_cache(maxsize=4)
def sequence_breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> frozenset[int]:
    """The tokens that contain one of `texts`.

    Raises:
        UsageError: no token contains one of them, so it could not end any repetition.
    """
    found: set[int] = set()
    # Pieces are searched too: control tokens stand for no bytes.
    spelled = [
        (token, tokenizer.token_bytes(token), tokenizer.piece(token).encode(errors="replace"))
        for token in range(tokenizer.vocab_size)
    ]
    for text in texts:
        data = text.encode(errors="replace")
        containing = {token for token, inside, piece in spelled if data in inside or data in piece}
        if not containing:
            raise UsageError(f"The DRY sequence breaker {text!r} is in no token of this model; give a shorter one.")
        found |= containing
    return frozenset(found)
