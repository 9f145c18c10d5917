"""The control tokens that a tokenizer puts in front of a text.

Its post-processor may also put some behind it: BERT's `[SEP]`, RoBERTa's `</s>`, or EOS where training texts were
separated so (`add_eos_token`). A text that is to be continued or scored has not ended, so those are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from tokenizers import Tokenizer as Backend


def beginning_of(backend: Backend) -> tuple[int, ...]:
    """The ids in front of a single text, as `backend`'s post-processor has them; none if it has no such step."""
    if backend.post_processor is None:
        return ()
    return _beginning(json.loads(backend.post_processor.__getstate__()))


def _beginning(step: Mapping[str, Any]) -> tuple[int, ...]:
    kind = step["type"]
    if kind == "Sequence":
        # Each step puts its tokens around what the one before it made.
        return tuple(token for each in reversed(step["processors"]) for token in _beginning(each))
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (step["cls"][1],)
    if kind == "TemplateProcessing":
        before = takewhile(lambda piece: "SpecialToken" in piece, step["single"])
        return tuple(token for piece in before for token in step["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
    # `ByteLevel` changes offsets only.
    return ()
