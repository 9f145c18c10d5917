"""Mistral's `tekken.json`: a tiktoken vocabulary with its word expression, after the control tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.trusted_encoding import without_surrogates
from llmcli.text.vocab.bpe.rank_bpe import rank_bpe_backend, token_of_base64

TEKKEN_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""Control tokens by role."""
# For the first files, which did not list them.
_FIRST_SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_MOST_TOKENS, _MOST_SPECIAL_TOKENS = 1 << 22, 1 << 16


def tekken_backend(text: str, *, source: str) -> Backend:
    """Build the tokenizer of the file at `source` with the contents `text`.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{source} is not valid JSON; download it again.") from None
    config = data.get("config") if isinstance(data, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("pattern"), str):
        raise CheckpointError(f"{source} has no config with a pattern, so it is not a tekken vocabulary.")
    size = _size(config, "default_vocab_size", _MOST_TOKENS, source)
    specials = _size(config, "default_num_special_tokens", _MOST_SPECIAL_TOKENS, source)
    ranked = _ranked_tokens(data.get("vocab"), size - specials, source)
    return rank_bpe_backend(
        ranked,
        _special_tokens(data.get("special_tokens"), specials, source),
        first_id=specials,
        words=without_surrogates(config["pattern"]),
        bos=TEKKEN_ROLES["bos_token"],
        source=source,
    )


def _size(config: Mapping[str, Any], name: str, most: int, source: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise CheckpointError(f"{source} has {name} = {value!r}; it must be a number from 1 to {most}.")
    return value


def _ranked_tokens(vocabulary: object, count: int, source: str) -> list[bytes]:
    """The first `count` tokens by rank: files have more tokens than the model has embeddings for."""
    if not isinstance(vocabulary, list) or not 0 < count <= len(vocabulary):
        found = len(vocabulary) if isinstance(vocabulary, list) else 0
        raise CheckpointError(f"{source} is damaged: its vocabulary has {found} tokens where {count} are needed.")
    tokens = []
    for rank, entry in enumerate(vocabulary[:count]):
        if not isinstance(entry, dict) or entry.get("rank") != rank:
            raise CheckpointError(f"{source} is damaged: the tokens of its vocabulary are not in the order of ranks.")
        tokens.append(token_of_base64(entry.get("token_bytes"), source=source))
    return tokens


def _special_tokens(listed: object, count: int, source: str) -> dict[int, AddedToken]:
    """The control tokens by id; ids without a name get a numbered one."""
    if listed is None:
        listed = [{"rank": rank, "token_str": token} for rank, token in enumerate(_FIRST_SPECIAL_TOKENS[:count])]
    if not isinstance(listed, list):
        raise CheckpointError(f"{source} is damaged: its special_tokens are not a list.")
    special = {}
    for entry in listed:
        rank, content = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if not isinstance(rank, int) or not 0 <= rank < count or not isinstance(content, str) or not content:
            raise CheckpointError(f"{source} is damaged: {entry!r:.80} is no special token.")
        control = entry.get("is_control", True) is not False
        special[rank] = AddedToken(without_surrogates(content), special=control, normalized=False)
    for rank in range(count):
        special.setdefault(rank, AddedToken(f"<SPECIAL_{rank}>", special=True, normalized=False))
    if len({token.content for token in special.values()}) != count:
        raise CheckpointError(f"{source} is damaged: two special tokens are spelled the same.")
    return special
