"""A vocabulary whose tokens have types, as SentencePiece models and GGUF files have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.token_bytes import SPACE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@dataclass(frozen=True)
class TypedVocabulary:
    """The checked tokens of a file, index = token id."""

    source: str
    """The file to blame."""
    tokens: Sequence[str]
    types: Sequence[int]
    """How each token is meant: `NORMAL`, `UNKNOWN`, ..."""

    def error(self, problem: str) -> CheckpointError:
        """The file is at fault."""
        return CheckpointError(f"{self.source} has a damaged tokenizer: {problem}")

    def is_space_run(self, index: int) -> bool:
        """Whether a token is whitespace the model's makers added by hand: ordinary text all the same."""
        return self.types[index] == USER_DEFINED and self.tokens[index].replace(SPACE, " ").isspace()


def as_spelling(token: str, index: int) -> str:
    """A spelling the tokenizer library accepts: not empty, and valid Unicode."""
    if not token:
        return f"[EMPTY_{index}]"
    try:
        token.encode()
    except UnicodeEncodeError:
        return f"[INVALID_{index}]"
    return token


def as_spellings(tokens: Sequence[str]) -> list[str]:
    """Each of `tokens`, by id, as a spelling the tokenizer library accepts."""
    try:
        # As a rule all are: one look at all of them takes a tenth of the time.
        "".join(tokens).encode()
    except UnicodeEncodeError:
        pass
    else:
        if all(tokens):
            return list(tokens)
    return [as_spelling(token, index) for index, token in enumerate(tokens)]


def add_tokens(backend: Backend, vocabulary: TypedVocabulary, *, space_runs: bool) -> None:
    """Have control tokens and those added by hand found as wholes in text; runs of spaces only if `space_runs`."""
    special, ordinary = [], []
    for index, kind in enumerate(vocabulary.types):
        if kind == NORMAL:
            continue
        token = vocabulary.tokens[index]
        if kind in (CONTROL, UNKNOWN):
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == USER_DEFINED and (space_runs or not vocabulary.is_space_run(index)):
            ordinary.append(AddedToken(token, special=False, normalized=False))
    backend.add_special_tokens(special)
    backend.add_tokens(ordinary)
