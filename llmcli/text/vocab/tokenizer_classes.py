"""Which tokenizer `vocab.json` and `merges.txt` make, which only the name of a class in another file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from llmcli.errors import UnsupportedModelError

TokenizerClass: TypeAlias = Literal["GPT2Tokenizer", "Qwen2Tokenizer"]

# CodeGen's is GPT-2's under another name.
_CLASSES: dict[str, TokenizerClass] = {
    "GPT2Tokenizer": "GPT2Tokenizer",
    "CodeGenTokenizer": "GPT2Tokenizer",
    "Qwen2Tokenizer": "Qwen2Tokenizer",
}
# What transformers takes for models whose files name no class.
_OF_MODELS: dict[str, TokenizerClass] = {
    **dict.fromkeys(("gpt2", "phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
}


def tokenizer_class(
    tokenizer_config: Mapping[str, object], config: Mapping[str, object], *, source: str
) -> TokenizerClass:
    """The class whose rules go with the `vocab.json` at `source`, by the two parsed configurations beside it.

    Raises:
        UnsupportedModelError: none is named and the kind of model implies none, or its rules are not known here.
    """
    name = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    if not name:
        name = _OF_MODELS.get(str(config.get("model_type")))
    if name is None:
        raise UnsupportedModelError(
            f"{source} is a vocabulary without a tokenizer.json, and no tokenizer_config.json names the "
            "tokenizer_class that says how text is cut into words; use a version of the model with a tokenizer.json."
        )
    found = _CLASSES.get(str(name).removesuffix("Fast"))
    if found is None:
        raise UnsupportedModelError(
            f"{source} is a vocabulary for the tokenizer class {str(name)[:80]!r}, which is supported only with a "
            f"tokenizer.json; without one, {', '.join(_CLASSES)} are."
        )
    return found
