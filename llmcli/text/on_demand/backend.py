"""Build a tokenizer for one text at a time, from the few tokens of a large vocabulary that the text can contain.

The `tokenizers` library copies the whole vocabulary and all merges, which takes a second and 100 MiB for 262,144
tokens, but a prompt uses a few hundred of them. BPE only forms tokens that occur in the text, letter by letter. So a
tokenizer with these tokens and the merges between them encodes the text to the same ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from tokenizers import AddedToken, Encoding, models
from tokenizers import Tokenizer as Backend

from llmcli.text.on_demand.packed_strings import PackedStrings
from llmcli.text.token_bytes import SPACE, byte_alphabet
from llmcli.text.tokenizers_errors import encoded

# Parts of the text that are searched for at a time, which take 100 bytes each.
MOST_PARTS = 300_000
# Searches before the whole vocabulary is built: they take about as long as that.
MOST_SEARCHES = 16
# Tokenizers of recent texts that are kept, since one prompt is encoded several times.
_KEPT = 4
_LETTERS = frozenset(byte_alphabet())
_NONE: Mapping[int, str] = MappingProxyType({})


class BuildBackend(Protocol):
    """Builds a tokenizer from a part of a vocabulary."""

    def __call__(self, ids: Collection[int] | None, renamed: Mapping[int, str]) -> Backend:
        """Build a tokenizer with the tokens `ids` and the merges between them; None: with all tokens.

        The tokens in `renamed` have other spellings, which no merge forms.
        """


class OnDemandBackend:
    """Stands for a tokenizer of the `tokenizers` library with a BPE model, and builds it as far as texts need it."""

    def __init__(
        self,
        tokens: PackedStrings,
        build: BuildBackend,
        *,
        always: Mapping[int, str],
        added: Mapping[int, AddedToken],
        known: Mapping[str, int | None],
    ) -> None:
        """Describe the vocabulary `tokens`, of which `added` are matched as wholes, before any other rule.

        `always` are tokens that a text may become without containing them, with the spellings of the model. `known`
        are ids of further spellings, None for those that do not exist.
        """
        self._tokens, self._build, self._always, self._added = tokens, build, always, added
        spellings = {spelling: index for index, spelling in always.items()}
        self._ids = {**known, **spellings, **{token.content: index for index, token in added.items()}}
        self._longest = tokens.longest
        self.searches: int = 0
        """How often the vocabulary has been searched for the parts of a text."""
        self._recent: deque[tuple[tuple[str, ...], Mapping[int, str], Backend]] = deque(maxlen=_KEPT)
        # One without other spellings, and the last one with some.
        self._whole: dict[bool, tuple[Mapping[int, str], Backend]] = {}
        self.rules: Backend = build(always.keys(), _NONE)
        """A tokenizer with the same rules and the fewest tokens."""

    def covering(self, *texts: str, renamed: Mapping[int, str] = _NONE) -> Backend:
        """A tokenizer that encodes each of `texts` to the same ids as one with the whole vocabulary.

        Added tokens in `renamed` are recognized by other spellings; text with their own spellings is ordinary text.
        """
        for covered, names, backend in self._recent:
            if names is renamed and set(covered).issuperset(texts):
                return backend
        backend = self._backend_for(texts, renamed)
        self._recent.append((texts, renamed, backend))
        return backend

    def whole(self) -> Backend:
        """The tokenizer with the whole vocabulary."""
        return self._renamed_whole(_NONE)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        return dict(self._added)

    def id_to_token(self, index: int) -> str | None:
        """The spelling of a token."""
        if index in self._always:
            return self._always[index]
        return self._tokens[index] if 0 <= index < len(self._tokens) else None

    def token_to_id(self, token: str) -> int | None:
        """The id of the token with this spelling, if there is one."""
        if token not in self._ids:
            self._ids[token] = self._tokens.find(token)
        return self._ids[token]

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Encode one text."""
        return self.covering(text).encode(text, add_special_tokens=add_special_tokens)

    def to_str(self) -> str:
        """The whole tokenizer as the contents of a tokenizer.json."""
        return self.whole().to_str()

    def _backend_for(self, texts: Sequence[str], renamed: Mapping[int, str]) -> Backend:
        if self.searches > MOST_SEARCHES or sum(map(len, texts)) * self._longest > MOST_SEARCHES * MOST_PARTS:
            return self._renamed_whole(renamed)
        added = {
            index: AddedToken(renamed.get(index, token.content), special=token.special, normalized=token.normalized)
            for index, token in self._added.items()
            if any(renamed.get(index, token.content) in text for text in texts)
        }
        found: set[int] = set()
        for parts in self._parts(self._words(texts, added.values())):
            self.searches += 1
            found.update(self._tokens.matches(parts))
        ids = {*self._always, *added, *(found - renamed.keys())}
        return self._build(sorted(ids), {index: renamed[index] for index in ids if index in renamed})

    def _renamed_whole(self, renamed: Mapping[int, str]) -> Backend:
        names, backend = self._whole.get(bool(renamed), (None, None))
        if backend is None or names is not renamed:
            backend = self._build(None, renamed)
            self._whole[bool(renamed)] = renamed, backend
        return backend

    def _words(self, texts: Sequence[str], added: Iterable[AddedToken]) -> set[str]:
        """The words that the tokenizer's rules make of `texts`, as the model gets them to merge their letters."""
        letters = {*_LETTERS, SPACE, *"".join(texts)}
        splitter = Backend(models.BPE({letter: index for index, letter in enumerate(sorted(letters))}, []))
        if self.rules.normalizer is not None:
            splitter.normalizer = self.rules.normalizer
        if self.rules.pre_tokenizer is not None:
            splitter.pre_tokenizer = self.rules.pre_tokenizer
        splitter.add_tokens(list(added))
        words: set[str] = set()
        for text in texts:
            encoding = encoded(splitter, text)
            word, last = "", None
            for letter, place in zip(encoding.tokens, encoding.word_ids, strict=True):
                if place != last:
                    words.add(word)
                    word = ""
                word, last = word + letter, place
            words.add(word)
        return words

    def _parts(self, words: Iterable[str]) -> Iterator[set[bytes]]:
        """All parts of `words` that are no longer than the longest token, some at a time."""
        parts: set[bytes] = set()
        for word in words:
            for start in range(len(word)):
                stop = min(start + self._longest, len(word))
                parts.update([word[start:end].encode() for end in range(start + 1, stop + 1)])
                if len(parts) > MOST_PARTS:
                    yield parts
                    parts = set()
        yield parts


def covering(backend: Backend | OnDemandBackend, *texts: str) -> Backend:
    """A tokenizer that encodes each of `texts` as `backend` does."""
    return backend.covering(*texts) if isinstance(backend, OnDemandBackend) else backend


def rules_of(backend: Backend | OnDemandBackend) -> Backend:
    """A tokenizer with the rules of `backend`, perhaps without its tokens."""
    return backend.rules if isinstance(backend, OnDemandBackend) else backend
