"""The control tokens that a tokenizer adds before a text, such as BOS.

The post-processor may also add tokens after it: BERT's `[SEP]`, RoBERTa's `</s>`, or EOS between training texts
(`add_eos_token`). These are left out, since a text to continue or to score has not ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from tokenizers import Tokenizer as Backend


def beginning_of(backend: Backend) -> tuple[int, ...]:
    """The ids that `backend`'s post-processor adds before a single text; empty if it has none."""
    if backend.post_processor is None:
        return ()
    return _beginning(json.loads(backend.post_processor.__getstate__()))


def _beginning(step: Mapping[str, Any]) -> tuple[int, ...]:
    kind = step["type"]
    if kind == "Sequence":
        # Each step adds its tokens around the result of the previous step.
        return tuple(token for each in reversed(step["processors"]) for token in _beginning(each))
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (step["cls"][1],)
    if kind == "TemplateProcessing":
        before = takewhile(lambda piece: "SpecialToken" in piece, step["single"])
        return tuple(token for piece in before for token in step["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
    # `ByteLevel` changes offsets only.
    return ()
