"""What the JSON files beside a `tokenizer.json` say about special and added tokens."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.guarded import without_surrogates

_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


def named_special_tokens(*files: Mapping[str, object] | None) -> dict[str, str]:
    """Spellings by role (`bos_token`, `eos_token`, `image_token`, ...), as chat templates use them.

    A token is written as a string or as an object with `content`. The first of `files` that names a role decides.
    """
    named: dict[str, str] = {}
    for values in files:
        extra = (values or {}).get("extra_special_tokens")
        entries = [*(values or {}).items(), *(extra.items() if isinstance(extra, Mapping) else ())]
        for role, value in entries:
            content = value.get("content") if isinstance(value, Mapping) else value
            if role.endswith("_token") and isinstance(content, str):
                named.setdefault(role, without_surrogates(content))
    return named


def add_listed_tokens(
    backend: Backend,
    tokenizer_config: Mapping[str, object] | None,
    added_tokens: Mapping[str, object] | None,
    *,
    source: str,
) -> None:
    """Add to `backend` the tokens that only the files beside it know: older models keep some of theirs there.

    Raises:
        CheckpointError: an entry that is damaged, or an id that the vocabulary gives to something else.
    """
    listed = (tokenizer_config or {}).get("added_tokens_decoder") or {}
    if not isinstance(listed, Mapping):
        raise CheckpointError(f"The 'added_tokens_decoder' beside {source} is not an object.")
    wanted: dict[int, AddedToken] = {}
    for key, entry in listed.items():
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str) or not content or not _is_id(key):
            raise CheckpointError(f"The 'added_tokens_decoder' beside {source} has a damaged entry for {key!r}.")
        content = without_surrogates(content)
        wanted[int(key)] = AddedToken(content, **{flag: entry[flag] is True for flag in _FLAGS if flag in entry})
    for content, token in (added_tokens or {}).items():
        if not isinstance(token, int) or not content or not 0 <= token < 2**31:
            raise CheckpointError(f"The added_tokens.json beside {source} has a damaged entry for {content!r}.")
        wanted.setdefault(token, AddedToken(without_surrogates(content)))
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    for index, token in sorted(wanted.items()):
        if token.content not in present:
            backend.add_tokens([token])
        actual = backend.token_to_id(token.content)
        if actual != index:
            raise CheckpointError(
                f"The files beside {source} give the token {token.content!r} the id {index}, "
                f"but its place in the vocabulary is {actual}."
            )


def mark_special(backend: Backend, named: Mapping[str, str]) -> None:
    """Make the tokens that have a role special, where the vocabulary has them only as ordinary ones."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    for content in dict.fromkeys(named.values()):
        if content not in present and backend.token_to_id(content) is not None:
            backend.add_special_tokens([AddedToken(content, special=True, normalized=False)])


def _is_id(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10
