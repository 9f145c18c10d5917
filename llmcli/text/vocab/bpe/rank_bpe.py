"""Vocabularies in the style of tiktoken: tokens are bytes, and their ranks give the order of merges."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Container, Mapping, Sequence

from tokenizers import AddedToken, decoders, models, processors
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.token_bytes import byte_alphabet
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.bpe.pretokenizers import byte_level_pre_tokenizer

# Every split of every token is tried, so limit the size. Known vocabularies have 2 MiB, in tokens of up to 256 bytes.
_MOST_BYTES = 8 << 20
_LONGEST_TOKEN = 1024


def token_of_base64(text: object, *, source: str) -> bytes:
    """The bytes of a token; raises `CheckpointError` if `text` is not base64 or is empty."""
    try:
        if isinstance(text, str) and (token := base64.b64decode(text, validate=True)):
            return token
    except (binascii.Error, ValueError):
        pass
    raise CheckpointError(f"{source} has a damaged vocabulary: {text!r} is not a token in base64.")


def rank_bpe_backend(
    ranked: Sequence[bytes],
    special: Mapping[int, AddedToken],
    *,
    first_id: int,
    words: str,
    bos: str,
    source: str,
) -> Backend:
    """Build a byte-level BPE tokenizer that gives the same ids as tiktoken.

    `ranked` are the ordinary tokens by rank, with ids from `first_id` on; `special` are the other tokens by id. `words`
    is the regular expression for words, within which merges happen; `bos` is the token that begins a text.

    Raises:
        CheckpointError: the vocabulary is damaged.
    """
    if sum(map(len, ranked)) > _MOST_BYTES or max(map(len, ranked), default=0) > _LONGEST_TOKEN:
        raise CheckpointError(f"{source} has a damaged vocabulary: its tokens are too long.")
    ranks = {token: rank for rank, token in enumerate(ranked)}
    if len(ranks) != len(ranked):
        raise CheckpointError(f"{source} has a damaged vocabulary: two tokens have the same bytes.")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{source} has a damaged vocabulary: some bytes have no token.")
    ids = {token.content: index for index, token in special.items()}
    # Leave out ordinary tokens spelled like a control token, so that text is never encoded to the control token.
    spellings = {token: spelling for token in ranked if (spelling := _spelled(token)) not in ids}
    ids |= {spelling: first_id + ranks[token] for token, spelling in spellings.items()}
    merges = [(spellings[left], spellings[right]) for left, right in _merges(ranked, spellings.keys())]
    with wrap_tokenizer_errors(f"{source} has a damaged tokenizer"):
        backend = Backend(models.BPE(ids, merges, ignore_merges=True))
        backend.pre_tokenizer = byte_level_pre_tokenizer(words)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([token for token in special.values() if token.special])
        backend.add_tokens([token for token in special.values() if not token.special])
        if bos in ids:
            backend.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, ids[bos])])
    return backend


_LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}


def _spelled(token: bytes) -> str:
    """The spelling of a token in the byte alphabet."""
    return token.decode("latin-1").translate(_LETTERS)


def _merges(ranked: Sequence[bytes], known: Container[bytes]) -> list[tuple[bytes, bytes]]:
    """All pairs of known tokens that merge to a known token, ordered by the rank of the result, then of the parts."""
    ranks = {token: rank for rank, token in enumerate(ranked) if token in known}
    merges = []
    for token in ranks:
        pairs = []
        for cut in range(1, len(token)):
            left = ranks.get(token[:cut])
            if left is not None and (right := ranks.get(token[cut:])) is not None:
                pairs.append((left, right))
        merges += [(ranked[left], ranked[right]) for left, right in sorted(pairs)]
    return merges
