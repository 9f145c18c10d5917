"""Build a byte-level BPE tokenizer from `vocab.json` and `merges.txt`, the format of GPT-2 before `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmcli.errors import CheckpointError
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.trusted_encoding import without_surrogates
from llmcli.text.vocab.bpe.pretokenizers import QWEN2_WORDS, byte_level_pre_tokenizer
from llmcli.text.vocab.tokenizer_classes import TokenizerClass
from llmcli.text.vocab.tokenizer_config import flag

_END_OF_TEXT = "<|endoftext|>"
# Roles of <|endoftext|> in each class, if no file declares others.
_ROLES: dict[TokenizerClass, tuple[str, ...]] = {
    "GPT2Tokenizer": ("unk_token", "bos_token", "eos_token"),
    "Qwen2Tokenizer": ("unk_token", "eos_token", "pad_token"),
}


def byte_level_backend(
    vocabulary: Mapping[str, object],
    merges: str,
    tokenizer_config: Mapping[str, object],
    *,
    rules: TokenizerClass,
    source: str,
) -> Backend:
    """Build the tokenizer of the parsed `vocab.json` at `source` and the text of its `merges.txt`.

    Uses `add_prefix_space` of `tokenizer_config`. Tokens that other files add are not included.

    Raises:
        CheckpointError: a file is damaged, or the merges do not fit the vocabulary.
    """
    ids: dict[str, int] = {}
    for token, index in vocabulary.items():
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**31:
            ids[without_surrogates(token)] = index
        else:
            raise CheckpointError(f"{source} gives the token {token[:80]!r} the id {index!r}; download it again.")
    prefix = flag(tokenizer_config, "add_prefix_space", False, source)
    with wrap_tokenizer_errors(f"{source} and the merges.txt next to it are not a valid tokenizer"):
        backend = Backend(models.BPE(ids, _pairs(merges, source)))
        if rules == "Qwen2Tokenizer":
            backend.normalizer = normalizers.NFC()
            backend.pre_tokenizer = byte_level_pre_tokenizer(QWEN2_WORDS, prefix_space=prefix)
        else:
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        backend.decoder = decoders.ByteLevel()
    return backend


def implied_roles(backend: Backend, tokenizer_config: Mapping[str, object], rules: TokenizerClass) -> dict[str, str]:
    """Spellings by role of the special tokens that a tokenizer class implies if no file declares them."""
    if backend.token_to_id(_END_OF_TEXT) is None:
        return {}
    return {role: _END_OF_TEXT for role in _ROLES[rules] if role not in tokenizer_config}


def add_beginning(
    backend: Backend, named: Mapping[str, str], tokenizer_config: Mapping[str, object], *, source: str
) -> None:
    """Add the `named` `bos_token` before every text, if `tokenizer_config` has `add_bos_token`.

    Raises:
        CheckpointError: `add_bos_token` is not a boolean, or the vocabulary lacks the token.
    """
    token = named.get("bos_token")
    if token is None or not flag(tokenizer_config, "add_bos_token", False, source):
        return
    index = backend.token_to_id(token)
    if index is None:
        raise CheckpointError(f"The files next to {source} begin texts with {token!r}, which the vocabulary lacks.")
    backend.post_processor = processors.TemplateProcessing(single=[token, "$A"], special_tokens=[(token, index)])


def _pairs(merges: str, source: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(merges.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise CheckpointError(f"The merges.txt next to {source} has no pair of pieces in line {number}.")
        pairs.append((first, second))
    return pairs
