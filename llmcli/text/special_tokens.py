"""Special and added tokens declared in the JSON files next to a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.trusted_encoding import without_surrogates

# More added tokens than any model has for chats and tools.
_CODES = 1000
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


def named_special_tokens(*files: Mapping[str, object] | None) -> dict[str, str]:
    """Spellings of special tokens by role (`bos_token`, `eos_token`, `image_token`, ...), as chat templates use them.

    A token is a string or an object with `content`. The first of `files` that names a role decides.
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


def declared_special(*files: Mapping[str, object] | None) -> set[str]:
    """Spellings of all tokens that `files` declare as special: by role, in a list, or by a flag."""
    found: list[object] = list(named_special_tokens(*files).values())
    for values in files:
        listed = (values or {}).get("added_tokens_decoder")
        entries = listed.values() if isinstance(listed, Mapping) else ()
        found += [entry for entry in entries if isinstance(entry, Mapping) and entry.get("special") is True]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = (values or {}).get(key)
            found += more if isinstance(more, list) else []
    contents = [entry.get("content") if isinstance(entry, Mapping) else entry for entry in found]
    return {without_surrogates(content) for content in contents if isinstance(content, str)}


def add_listed_tokens(
    backend: Backend,
    tokenizer_config: Mapping[str, object] | None,
    added_tokens: Mapping[str, object] | None,
    *,
    templates: Collection[str] = (),
    source: str,
) -> tuple[str, ...]:
    """Add to `backend` the tokens that only the files next to it list, as older models do.

    Such lists are often outdated. If one disagrees with `backend`, `backend` is right, and damaged entries are skipped;
    the returned notes say so.

    Raises:
        CheckpointError: a token that a chat template writes would get another id than listed.
    """
    wanted, damaged = _listed_tokens(tokenizer_config, added_tokens)
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    following = _next_id(backend)
    other: list[str] = []
    for index, token in sorted(wanted.items(), key=lambda item: item[0]):
        actual = backend.token_to_id(token.content)
        if actual == index or (actual is None and index == following):
            if token.content not in present:
                backend.add_tokens([token])
                following = max(following, index + 1)
        elif actual is None and any(token.content in template for template in templates):
            raise CheckpointError(
                f"The files next to {source} give the token {token.content!r}, which the chat template writes, the id "
                f"{index}; the next id in its vocabulary is {following}."
            )
        else:
            other.append(token.content)
    notes = []
    if damaged:
        notes.append(f"Lists of added tokens next to {source} have damaged entries ({_some(damaged)}); not used.")
    if other:
        notes.append(
            f"Lists of added tokens next to {source} disagree with it about {_some(other)}; its own ids are used."
        )
    return tuple(notes)


def with_listed_ids(
    vocabulary: Mapping[str, object],
    tokenizer_config: Mapping[str, object] | None,
    added_tokens: Mapping[str, object] | None,
) -> dict[str, object]:
    """Insert the listed tokens whose ids are gaps in a parsed `vocab.json`.

    Otherwise they could only be added after the end of the vocabulary, with other ids.
    """
    listed, _ = _listed_tokens(tokenizer_config, added_tokens)
    taken = {index for index in vocabulary.values() if isinstance(index, int)}
    last = max(taken, default=-1)
    free = {token.content: index for index, token in listed.items() if index < last and index not in taken}
    return {**free, **vocabulary}


def _listed_tokens(
    tokenizer_config: Mapping[str, object] | None, added_tokens: Mapping[str, object] | None
) -> tuple[dict[int, AddedToken], list[str]]:
    """The listed tokens by id, and the damaged entries."""
    listed = (tokenizer_config or {}).get("added_tokens_decoder") or {}
    wanted: dict[int, AddedToken] = {}
    damaged: list[str] = []
    if not isinstance(listed, Mapping):
        damaged.append("added_tokens_decoder")
        listed = {}
    for key, entry in listed.items():
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(content, str) or not content or not _is_id(key):
            damaged.append(str(key))
            continue
        content = without_surrogates(content)
        wanted[int(key)] = AddedToken(content, **{flag: entry[flag] is True for flag in _FLAGS if flag in entry})
    for content, token in (added_tokens or {}).items():
        if not isinstance(token, int) or isinstance(token, bool) or not content or not 0 <= token < 2**31:
            damaged.append(content)
        else:
            wanted.setdefault(token, AddedToken(without_surrogates(content)))
    return wanted, damaged


def _next_id(backend: Backend) -> int:
    """The id that the library gives to the next added token."""
    size = backend.get_vocab_size(with_added_tokens=False)
    return max(size, *(index + 1 for index in backend.get_added_tokens_decoder()), 0)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.40}" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def leftover_tokens(added: Mapping[int, AddedToken], vocab_size: int, rows: int) -> list[int]:
    """The ids from `rows` on, if they are a few `added` tokens for which fine-tuning created no embeddings.

    They may also be thousands, which are codes of images and sound that the model reads and does not write. If the
    ordinary vocabulary exceeds `rows`, or most added tokens have no embedding, the tokenizer belongs to another model:
    then the result is empty, and loading fails on the sizes.
    """
    beyond = range(rows, vocab_size)
    few, codes = 2 * len(beyond) <= len(added), len(beyond) >= _CODES
    return list(beyond) if (few or codes) and all(index in added for index in beyond) else []


def mark_special(backend: Backend, named: Mapping[str, str], *, source: str) -> tuple[str, ...]:
    """Mark tokens that have a role as special, if the vocabulary has them as ordinary tokens.

    Returns a note that names the tokens missing from the vocabulary, if any.
    """
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = []
    for content in dict.fromkeys(named.values()):
        if backend.token_to_id(content) is None:
            missing.append(content)
        elif content not in present:
            backend.add_special_tokens([AddedToken(content, special=True, normalized=False)])
    return (f"Files next to {source} name tokens that it does not have: {_some(missing)}.",) if missing else ()


def _is_id(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10
