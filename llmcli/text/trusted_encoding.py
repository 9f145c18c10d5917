"""Encode a text in which only trusted parts may contain control tokens.

User input is text, even where it spells `<|im_end|>`. The chat template's markers in the same string must become
control tokens, and merges and word borders must be the same as if the whole string were encoded together.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.on_demand.backend import OnDemandBackend, covering
from llmcli.text.tokenizers_errors import encoded, wrap_tokenizer_errors

# Replaces an untrusted segment when control tokens of the trusted segments are searched.
_BLANK = "\ue000"
_NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class TextSegment:
    """A part of a prompt. Spellings of added tokens become these tokens only in trusted parts."""

    text: str
    trusted: bool


@dataclass(frozen=True)
class _Marker:
    """One control token found in a text, and its span in characters."""

    id: int
    start: int
    end: int


@dataclass(frozen=True)
class _Blanked:
    """A prompt whose untrusted segments are replaced by one character each."""

    text: str
    starts: list[int]
    """Where the trusted segments start in `text`."""
    shifts: list[int]
    """By how many characters each trusted segment is further back in the prompt."""


def _blanked(segments: Sequence[TextSegment]) -> _Blanked:
    blanked, length = "", 0
    starts: list[int] = []
    shifts: list[int] = []
    for segment in segments:
        if segment.trusted:
            starts.append(len(blanked))
            shifts.append(length - len(blanked))
            blanked += segment.text
        elif segment.text:
            blanked += _BLANK
        length += len(segment.text)
    return _Blanked(blanked, starts, shifts)


class GuardedEncoder:
    """Encodes segments together, and recognizes added tokens in trusted segments only."""

    def __init__(
        self, backend: Backend | OnDemandBackend, unknown: int | None, plain: Collection[int] = (), *, source: str
    ) -> None:
        """`unknown` is the id for text outside the vocabulary, which does not indicate a control token.

        The added tokens `plain` are ordinary text and recognized everywhere (see `plain_tokens`).
        """
        self._backend = backend
        self._unknown = unknown
        self._source = source
        self.protected = {
            index: token for index, token in backend.get_added_tokens_decoder().items() if index not in plain
        }

    def encode(self, segments: Sequence[TextSegment]) -> list[int]:
        """The ids of the joined segments."""
        text = "".join(segment.text for segment in segments)
        blanked = _blanked(segments) if any(segment.trusted for segment in segments) else None
        backend = covering(self._backend, text, *([] if blanked is None else [blanked.text]))
        encoding = self._encoded(backend, text)
        wanted = [] if blanked is None else self._wanted(backend, blanked)
        if self._markers(encoding, text) == wanted:
            return list(encoding.ids)
        for marker in reversed(wanted):
            content = self.protected[marker.id].content
            start = text.find(content, marker.start, marker.end)
            # Not found literally: the normalizer changed the spelling, and the whole span belongs to the token.
            start, end = (marker.start, marker.end) if start < 0 else (start, start + len(content))
            text = text[:start] + self._sentinels[marker.id] + text[end:]
        encoding = self._encoded(self._guarded(text), text)
        found = self._markers(encoding, text, self._sentinels)
        if [marker.id for marker in found] != [marker.id for marker in wanted]:
            raise CheckpointError(
                f"{self._source} has added tokens that cannot be distinguished from text with the same spelling; "
                "remove such spellings from the prompt."
            )
        return list(encoding.ids)

    def control_spans(self, text: str) -> list[tuple[int, int]]:
        """Spans (start, end) in characters where `text` would have control tokens if it were trusted."""
        encoding = self._encoded(covering(self._backend, text), text)
        return [(marker.start, marker.end) for marker in self._markers(encoding, text)]

    def _wanted(self, backend: Backend, blanked: _Blanked) -> list[_Marker]:
        """The control tokens of the trusted segments, with their spans in the joined text."""
        markers = self._markers(self._encoded(backend, blanked.text), blanked.text)
        by = [blanked.shifts[bisect_right(blanked.starts, marker.start) - 1] for marker in markers]
        return [
            _Marker(marker.id, marker.start + shift, marker.end + shift)
            for marker, shift in zip(markers, by, strict=True)
        ]

    def _markers(self, encoding: Encoding, text: str, renamed: Mapping[int, str] = _NONE) -> list[_Marker]:
        """The control tokens in `encoding`; those in `renamed` have other spellings."""
        ids = encoding.ids
        if self.protected.keys().isdisjoint(ids):
            return []
        offsets = encoding.offsets
        markers = [_Marker(token, *offsets[at]) for at, token in enumerate(ids) if token in self.protected]
        unknown = None
        if self._unknown is not None:
            unknown = renamed.get(self._unknown) or self._backend.id_to_token(self._unknown)
        return [
            marker
            for marker in markers
            if marker.id != self._unknown or (unknown is not None and unknown in text[marker.start : marker.end])
        ]

    def _encoded(self, backend: Backend, text: str) -> Encoding:
        # The library reports missing parts of the file only when encoding.
        with wrap_tokenizer_errors(f"{self._source} cannot encode some text"):
            return encoded(backend, text)

    def _guarded(self, text: str) -> Backend:
        """The same tokenizer, but with control tokens spelled as sentinels and without merges that produce them."""
        if isinstance(self._backend, OnDemandBackend):
            return self._backend.covering(text, renamed=self._sentinels)
        return self._guarded_backend

    @cached_property
    def _sentinels(self) -> dict[int, str]:
        """A random spelling for each control token, which no text can contain by chance or intent."""
        nonce = secrets.token_hex(8)
        return {index: f"\U000f0001{nonce}{index}\U000f0002" for index in self.protected}

    @cached_property
    def _guarded_backend(self) -> Backend:
        """The backend as `_guarded` describes it. It takes half a second for a large vocabulary."""
        data: dict[str, Any] = json.loads(self._backend.to_str())
        renamed = {self.protected[index].content: sentinel for index, sentinel in self._sentinels.items()}
        for token in data["added_tokens"]:
            token["content"] = renamed.get(token["content"], token["content"])
        model = data["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {renamed.get(piece, piece): index for piece, index in vocabulary.items()}
        else:
            model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
        if "unk_token" in model:
            model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
        if "merges" in model:
            prefix = len(model.get("continuing_subword_prefix") or "")
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = [
                [left, right]
                for left, right in pairs
                if renamed.keys().isdisjoint((left, right, left + right[prefix:]))
            ]
        with wrap_tokenizer_errors(f"{self._source} is not a valid tokenizer"):
            guarded = Backend.from_str(json.dumps(data))
        if any(guarded.token_to_id(sentinel) != index for index, sentinel in self._sentinels.items()):
            raise CheckpointError(f"{self._source} lists its added tokens in an order that contradicts their ids.")
        return guarded


_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates (undecodable input) become U+FFFD."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
