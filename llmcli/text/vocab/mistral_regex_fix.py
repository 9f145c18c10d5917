"""Mending tokenizers that were saved with the wrong rule for words.

Versions of transformers before 5 saved Mistral's tekken vocabularies with the rule of Llama 3, which groups digits
and letters otherwise than the models were trained to expect.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer as Backend

from llmcli.text.vocab.bpe.pretokenizers import LLAMA3_WORDS, TEKKEN_WORDS, byte_level_pre_tokenizer

# Tokens that a tekken vocabulary has at these ids: control tokens, and the first byte after all of them.
_SIGNS = {1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 1000: "Ā"}


def mend_mistral_words(backend: Backend) -> bool:
    """Give a tekken vocabulary that has the rule of Llama 3 its own; whether there was need to."""
    if any(backend.id_to_token(index) != token for index, token in _SIGNS.items()):
        return False
    rule = None if backend.pre_tokenizer is None else json.loads(backend.pre_tokenizer.__getstate__())
    first = rule["pretokenizers"][0] if rule is not None and rule.get("pretokenizers") else {}
    if first.get("type") != "Split" or first["pattern"].get("Regex") != LLAMA3_WORDS:
        return False
    backend.pre_tokenizer = byte_level_pre_tokenizer(TEKKEN_WORDS)
    return True
