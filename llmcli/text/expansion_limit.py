"""Limit how much a tokenizer's rules may expand a text: replacing each letter by a thousand would fill the memory.

The `tokenizers` library applies rules without a limit, some already while it reads the file, so they are checked first.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator

from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError

# Rules of real tokenizers multiply to about 100, mostly for single characters that stand for whole phrases.
_MOST = 1024
_NORMALIZER = '"normalizer"'
_COLON = re.compile(r"\s*:\s*")
# JSON may escape the letters of a key, which a text search would not find.
_ESCAPED = "\\u00"


def refuse_growth(text: str, *, source: str) -> None:
    """Check the rules in the contents of a tokenizer.json, without parsing its vocabulary.

    Raises:
        CheckpointError: a text could become more than a thousand times longer.
    """
    try:
        for rule in _normalizers(text):
            refuse_rule(growth(rule), source=source)
    except (ValueError, TypeError, RecursionError):
        return  # the library reports what is wrong with it


def refuse_framing(backend: Backend, *, source: str) -> None:
    """Check what a tokenizer's post-processor adds around a text.

    Raises:
        CheckpointError: it repeats the text or adds tokens more than a thousand times.
    """
    if backend.post_processor is not None:
        refuse_rule(growth(pairs_of(backend.post_processor.__getstate__())), source=source)
    added = backend.num_special_tokens_to_add(is_pair=False)
    if added > _MOST:
        raise CheckpointError(f"{source} adds {added} control tokens to every text; at most {_MOST} are accepted.")


def refuse_rule(factor: int, *, source: str) -> None:
    """Raise `CheckpointError` if a text can become `factor` times longer, and that is too much."""
    if factor > _MOST:
        raise CheckpointError(
            f"{source} has rules that make a text up to {factor} times longer; at most {_MOST} times is accepted."
        )


def pairs_of(state: bytes | str) -> object:
    """Parse JSON with its objects as lists of pairs."""
    return json.loads(state, object_pairs_hook=list)


def growth(rule: object) -> int:
    """Factor by which a rule (parsed by `pairs_of`) and the rules inside it can lengthen a text."""
    factor = 1
    for pairs in _objects(rule):
        # For a duplicate key the library may use either value, so take the worst.
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
    """Length of the shortest text that a pattern matches: known for `{"String": ...}`, otherwise 1."""
    pairs = pattern if isinstance(pattern, list) else []
    return min((len(value) for kind, value in pairs if kind == "String" and isinstance(value, str)), default=1) or 1


def charsmap_growth(charsmap: bytes) -> int:
    """Length of the longest replacement in SentencePiece's `precompiled_charsmap`.

    It holds the size of a trie in bytes, the trie, and the replacements, each terminated by a zero byte.
    """
    tree = int.from_bytes(charsmap[:4], "little")
    return max(map(len, charsmap[4 + tree :].split(b"\0")), default=1) or 1


def _normalizers(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder(object_pairs_hook=list)
    if _ESCAPED in text:
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
    """`value` if it is an object, and all objects inside it."""
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
