"""Repair tokenizers that were saved with the wrong word expression.

Versions of transformers before 5 saved Mistral's tekken vocabularies with the word expression of Llama 3, which groups
digits and letters differently from the training data.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer as Backend

from llmcli.text.vocab.bpe.pretokenizers import LLAMA3_WORDS, TEKKEN_WORDS, byte_level_pre_tokenizer

# Tokens by which a tekken vocabulary is recognized: control tokens, and the first byte after all of them.
_SIGNS = {1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 1000: "Ā"}


def mend_mistral_words(backend: Backend) -> bool:
    """Replace Llama 3's word expression in a tekken vocabulary; returns whether it was replaced."""
    if any(backend.id_to_token(index) != token for index, token in _SIGNS.items()):
        return False
    rule = None if backend.pre_tokenizer is None else json.loads(backend.pre_tokenizer.__getstate__())
    first = rule["pretokenizers"][0] if rule is not None and rule.get("pretokenizers") else {}
    if first.get("type") != "Split" or first["pattern"].get("Regex") != LLAMA3_WORDS:
        return False
    backend.pre_tokenizer = byte_level_pre_tokenizer(TEKKEN_WORDS)
    return True
