"""Determine the tokenizer class for `vocab.json` and `merges.txt`, which only another file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from llmcli.errors import UnsupportedModelError

TokenizerClass: TypeAlias = Literal["GPT2Tokenizer", "Qwen2Tokenizer"]

# CodeGenTokenizer is the same as GPT2Tokenizer.
_CLASSES: dict[str, TokenizerClass] = {
    "GPT2Tokenizer": "GPT2Tokenizer",
    "CodeGenTokenizer": "GPT2Tokenizer",
    "Qwen2Tokenizer": "Qwen2Tokenizer",
}
# The defaults of transformers for models whose files name no class.
_OF_MODELS: dict[str, TokenizerClass] = {
    **dict.fromkeys(("gpt2", "phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
}


def tokenizer_class(
    tokenizer_config: Mapping[str, object], config: Mapping[str, object], *, source: str
) -> TokenizerClass:
    """The tokenizer class for the `vocab.json` at `source`, from the two parsed configurations next to it.

    Raises:
        UnsupportedModelError: no class is named or implied by the model type, or the class is not supported.
    """
    name = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    if not name:
        name = _OF_MODELS.get(str(config.get("model_type")))
    if name is None:
        raise UnsupportedModelError(
            f"{source} is a vocabulary without a tokenizer.json, and no tokenizer_config.json names the "
            "tokenizer_class that says how text is split into words; use a version of the model with a tokenizer.json."
        )
    found = _CLASSES.get(str(name).removesuffix("Fast"))
    if found is None:
        raise UnsupportedModelError(
            f"{source} is a vocabulary for the tokenizer class {str(name)[:80]!r}, which is supported only with a "
            f"tokenizer.json; without one, {', '.join(_CLASSES)} are."
        )
    return found
