"""Encoding a text of which only some parts may name control tokens.

What a user types is text, even where it spells `<|im_end|>`. The chat template's own markers have to become control
tokens, in the same string, and merges and word borders must come out as if the string were encoded in one go.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError
from llmcli.text.tokenizers_errors import encoded, wrap_tokenizer_errors

# Takes the place of an untrusted segment where only the others' control tokens are looked for.
_BLANK = "\ue000"


@dataclass(frozen=True)
class TextSegment:
    """A part of a prompt. Only in trusted parts do the spellings of added tokens stand for these tokens."""

    text: str
    trusted: bool


@dataclass(frozen=True)
class _Marker:
    """One control token found in a text, and the characters it came from."""

    id: int
    start: int
    end: int


class GuardedEncoder:
    """Encodes segments with a tokenizer, in one go, finding added tokens in trusted segments only."""

    def __init__(self, backend: Backend, unknown: int | None, plain: Collection[int] = (), *, source: str) -> None:
        """`unknown` is the id for text outside the vocabulary: to meet it is no sign of a control token.

        The added tokens `plain` are ordinary text, found everywhere (see `plain_tokens`).
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
        encoding = self._encoded(self._backend, text)
        wanted = self._wanted(segments)
        if self._markers(self._backend, encoding, text) == wanted:
            return list(encoding.ids)
        guarded = self._guarded_backend
        for marker in reversed(wanted):
            content = self.protected[marker.id].content
            start = text.find(content, marker.start, marker.end)
            # Not found as it is: the normalizer changed its spelling, and all of it belongs to the token.
            start, end = (marker.start, marker.end) if start < 0 else (start, start + len(content))
            text = text[:start] + self._sentinels[marker.id] + text[end:]
        encoding = self._encoded(guarded, text)
        found = self._markers(guarded, encoding, text)
        if [marker.id for marker in found] != [marker.id for marker in wanted]:
            raise CheckpointError(
                f"{self._source} has added tokens that cannot be told from text that spells them; "
                "remove such spellings from the prompt."
            )
        return list(encoding.ids)

    def control_spans(self, text: str) -> list[tuple[int, int]]:
        """Where in `text` control tokens would be found if it were trusted, as (start, end) in characters."""
        encoding = self._encoded(self._backend, text)
        return [(marker.start, marker.end) for marker in self._markers(self._backend, encoding, text)]

    def _wanted(self, segments: Sequence[TextSegment]) -> list[_Marker]:
        """The control tokens of the trusted segments, in the joined text."""
        if not any(segment.trusted for segment in segments):
            return []
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
        encoding = self._encoded(self._backend, blanked)
        markers = self._markers(self._backend, encoding, blanked)
        by = [shifts[bisect_right(starts, marker.start) - 1] for marker in markers]
        return [
            _Marker(marker.id, marker.start + shift, marker.end + shift)
            for marker, shift in zip(markers, by, strict=True)
        ]

    def _markers(self, backend: Backend, encoding: Encoding, text: str) -> list[_Marker]:
        ids = encoding.ids
        if self.protected.keys().isdisjoint(ids):
            return []
        offsets = encoding.offsets
        markers = [_Marker(token, *offsets[at]) for at, token in enumerate(ids) if token in self.protected]
        unknown = None if self._unknown is None else backend.id_to_token(self._unknown)
        return [
            marker
            for marker in markers
            if marker.id != self._unknown or (unknown is not None and unknown in text[marker.start : marker.end])
        ]

    def _encoded(self, backend: Backend, text: str) -> Encoding:
        # Whatever the file left out, the library says so only here.
        with wrap_tokenizer_errors(f"{self._source} cannot encode some text"):
            return encoded(backend, text)

    @cached_property
    def _sentinels(self) -> dict[int, str]:
        """An unguessable spelling for each control token, different in every process."""
        nonce = secrets.token_hex(8)
        return {index: f"\U000f0001{nonce}{index}\U000f0002" for index in self.protected}

    @cached_property
    def _guarded_backend(self) -> Backend:
        """The same tokenizer, but control tokens are spelled as sentinels, and no merge leads to them.

        Built only when a text asks for it: half a second for a large vocabulary.
        """
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
    """`text` as valid Unicode: halves of a pair are joined, lone ones (undecodable input) become U+FFFD."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
