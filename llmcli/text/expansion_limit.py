"""How much longer a tokenizer may make a text: rules that put a thousand letters in the place of one fill the memory.

The library applies them without a limit, some of them while it reads the file, so they are looked at before.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator

from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError

# Rules of real tokenizers multiply to 100 or so, nearly all of it for single signs that stand for whole phrases.
_MOST = 1024
_NORMALIZER = '"normalizer"'
_COLON = re.compile(r"\s*:\s*")
# How JSON may spell a letter, so that a key is not found by its name.
_SPELLED = "\\u00"


def refuse_growth(text: str, *, source: str) -> None:
    """Look at the rules in the contents of a tokenizer.json, without reading its vocabulary.

    Raises:
        CheckpointError: a text could become more than a thousand times longer.
    """
    try:
        for rule in _normalizers(text):
            refuse_rule(growth(rule), source=source)
    except (ValueError, TypeError, RecursionError):
        return  # the library says what is wrong with it


def refuse_framing(backend: Backend, *, source: str) -> None:
    """Look at what a tokenizer puts around a text.

    Raises:
        CheckpointError: the text would come more than a thousand times, or with more than a thousand tokens.
    """
    if backend.post_processor is not None:
        refuse_rule(growth(pairs_of(backend.post_processor.__getstate__())), source=source)
    added = backend.num_special_tokens_to_add(is_pair=False)
    if added > _MOST:
        raise CheckpointError(f"{source} puts {added} control tokens around a text, which is not accepted.")


def refuse_rule(factor: int, *, source: str) -> None:
    """Raise `CheckpointError` if that is how many times longer a text can become, and it is too much."""
    if factor > _MOST:
        raise CheckpointError(
            f"{source} has rules that make a text up to {factor} times longer, which is not accepted."
        )


def pairs_of(state: bytes | str) -> object:
    """JSON, its objects as lists of pairs."""
    return json.loads(state, object_pairs_hook=list)


def growth(rule: object) -> int:
    """How many times longer a text can become by a rule, given as pairs of JSON objects, and the rules inside it."""
    factor = 1
    for pairs in _objects(rule):
        # Of a key that is there twice the library takes one or the other.
        contents = [len(value) for key, value in pairs if key == "content" and isinstance(value, str)]
        found = [_shortest(value) for key, value in pairs if key == "pattern"]
        if contents and found:
            factor *= max(1, -(-max(contents) // min(found)))
        for key, value in pairs:
            if key == "prepend" and isinstance(value, str):
                factor *= 1 + len(value)
            elif key == "precompiled_charsmap" and isinstance(value, str):
                factor *= charsmap_growth(_from_base64(value))
            elif key == "single" and isinstance(value, list):
                factor *= max(1, sum(isinstance(piece, list) and "Sequence" in dict(piece) for piece in value))
    return factor


def _shortest(pattern: object) -> int:
    """The length of the shortest text that a pattern finds, as far as that is known: `{"String": ...}` finds itself."""
    pairs = pattern if isinstance(pattern, list) else []
    return min((len(value) for kind, value in pairs if kind == "String" and isinstance(value, str)), default=1) or 1


def charsmap_growth(charsmap: bytes) -> int:
    """The length of the longest text that SentencePiece's table puts in the place of a sign.

    It is a search tree, after the number of its bytes, and then the texts, each with a zero byte at its end.
    """
    tree = int.from_bytes(charsmap[:4], "little")
    return max(map(len, charsmap[4 + tree :].split(b"\0")), default=1) or 1


def _normalizers(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder(object_pairs_hook=list)
    if _SPELLED in text:
        yield from (value for key, value in decoder.decode(text) if key == "normalizer")
        return
    at = text.find(_NORMALIZER)
    while at >= 0:
        at += len(_NORMALIZER)
        rest = _COLON.match(text, at)
        if rest is not None:
            yield decoder.raw_decode(text, rest.end())[0]
        at = text.find(_NORMALIZER, at)


def _objects(value: object) -> Iterator[list[tuple[str, object]]]:
    """The object `value` is, and all that are inside it."""
    if not isinstance(value, list):
        return
    pairs = [each for each in value if isinstance(each, tuple)]
    if pairs:
        yield pairs
    for each in value:
        yield from _objects(each[1] if isinstance(each, tuple) else each)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
