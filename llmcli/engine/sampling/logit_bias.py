"""`--logit-bias TOKEN+BIAS`: tokens by ID or text, and the number added to their logits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.text.tokenizer import Tokenizer

# The last sign begins the number, unless it is the sign of an exponent.
_FORM = re.compile(r"(.+?)([+-](?:inf|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))", re.DOTALL)


def check_bias(argument: str) -> tuple[str, float]:
    """Split TOKEN+BIAS into the token as given and the bias.

    Raises:
        UsageError: `argument` has another form.
    """
    found = _FORM.fullmatch(argument)
    bias = float(found[2]) if found else float("inf")
    if found is None or bias == float("inf"):
        raise UsageError(
            f"--logit-bias {argument} is not a token, by ID or text, followed by + or - and a number, as in 15043+1 or "
            "Hello-2.5, or by -inf, which rules the token out."
        )
    return found[1], bias


def token_biases(arguments: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """The ID and the bias of each token.

    A number is the ID of a token; any other text must be exactly one token, which may be a control token.

    Raises:
        UsageError: `tokenizer` has no such token.
    """
    return tuple((_token_id(token, tokenizer), bias) for token, bias in map(check_bias, arguments))


def _token_id(token: str, tokenizer: Tokenizer) -> int:
    if token.isdecimal():
        if int(token) >= tokenizer.vocab_size:
            raise UsageError(f"--logit-bias: the model has {tokenizer.vocab_size} tokens, so none has the ID {token}.")
        return int(token)
    known = tokenizer.token_to_id(token)
    if known is not None and tokenizer.is_added(known):
        return known
    from llmcli.text.trusted_encoding import TextSegment

    ids = tokenizer.encode_segments([TextSegment(token, trusted=False)], continuation=True)
    if len(ids) != 1:
        raise UsageError(
            f"--logit-bias: {token!r} is {len(ids)} tokens of this model, not one; give an ID "
            f"({', '.join(map(str, ids))}) or another text. llm inspect tokens shows those of a text."
        )
    return ids[0]
