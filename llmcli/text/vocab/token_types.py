"""A vocabulary with token types, as in SentencePiece models and GGUF files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.token_bytes import SPACE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class TypedVocabulary:
    """The tokens of a file and their types, both indexed by token id."""

    source: str
    """The file, for error messages."""
    tokens: Sequence[str]
    types: Sequence[int]
    """The type of each token: `NORMAL`, `UNKNOWN`, ..."""

    def error(self, problem: str) -> CheckpointError:
        """An error about the file."""
        return CheckpointError(f"{self.source} has a damaged tokenizer: {problem}")

    def is_space_run(self, index: int) -> bool:
        """Whether a token is user-defined white space, which is ordinary text."""
        return self.types[index] == USER_DEFINED and self.tokens[index].replace(SPACE, " ").isspace()


def as_spelling(token: str, index: int) -> str:
    """A spelling that the `tokenizers` library accepts: not empty, and valid Unicode."""
    if not token:
        return f"[EMPTY_{index}]"
    try:
        token.encode()
    except UnicodeEncodeError:
        return f"[INVALID_{index}]"
    return token


def as_spellings(tokens: Sequence[str]) -> list[str]:
    """Convert `tokens`, indexed by id, to spellings that the `tokenizers` library accepts."""
    try:
        # Usually all are valid; checking them together takes a tenth of the time.
        "".join(tokens).encode()
    except UnicodeEncodeError:
        pass
    else:
        if all(tokens):
            return list(tokens)
    return [as_spelling(token, index) for index, token in enumerate(tokens)]


def added_tokens(vocabulary: TypedVocabulary, *, space_runs: bool) -> dict[int, AddedToken]:
    """The control tokens and user-defined tokens, which are matched as wholes; runs of spaces only if `space_runs`."""
    found: dict[int, AddedToken] = {}
    for index, kind in enumerate(vocabulary.types):
        if kind == NORMAL:
            continue
        if kind in (CONTROL, UNKNOWN):
            found[index] = AddedToken(vocabulary.tokens[index], special=True, normalized=False)
        elif kind == USER_DEFINED and (space_runs or not vocabulary.is_space_run(index)):
            found[index] = AddedToken(vocabulary.tokens[index], special=False, normalized=False)
    return found


def add_tokens(backend: Backend, tokens: Iterable[AddedToken]) -> None:
    """Register `tokens`, to be matched as wholes."""
    tokens = list(tokens)
    backend.add_special_tokens([token for token in tokens if token.special])
    backend.add_tokens([token for token in tokens if not token.special])
