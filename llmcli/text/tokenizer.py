"""The tokenizer of a model: text to ids and back, with the model's special tokens."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

from tokenizers import Tokenizer as Backend
from tokenizers import models

from llmcli.errors import CheckpointError
from llmcli.text.expansion_limit import refuse_framing
from llmcli.text.on_demand.backend import OnDemandBackend, covering, rules_of
from llmcli.text.plain_tokens import plain_tokens
from llmcli.text.prefix_tokens import beginning_of
from llmcli.text.reasoning import ThinkingFormat, marking_tokens, thinking_format
from llmcli.text.special_tokens import (
    leftover_tokens,
)
from llmcli.text.token_bytes import PieceDecoder
from llmcli.text.trusted_encoding import GuardedEncoder, TextSegment, without_surrogates

# The library iterates over all ids up to the highest, so an absurdly high id would take minutes and all memory.
_MOST_IDS = 1 << 24


class Tokenizer:
    """Encodes and decodes text with the rules and the vocabulary of one model."""

    def __init__(
        self,
        backend: Backend | OnDemandBackend,
        special_tokens: Mapping[str, str],
        *,
        source: str,
        vocab_size: int | None = None,
        rows: int | None = None,
        special: Collection[str] = (),
        templates: Collection[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Wrap `backend`; `special_tokens` gives spellings by role, `source` is the file named in errors.

        `vocab_size` is the highest id plus one, if known. The model has embeddings for `rows` tokens: added tokens
        beyond these are left over from fine-tuning and not used. `special` are spellings of further control tokens;
        tokens that the chat `templates` write are control tokens too. `notes` are messages for the user.
        """
        # Some files carry the limits of a training run; a prompt is never cut or padded.
        rules = rules_of(backend)
        rules.no_truncation()
        rules.no_padding()
        refuse_framing(rules, source=source)
        self.special_tokens: dict[str, str] = dict(special_tokens)
        """Spelling of each special token that has a role: `bos_token`, `eos_token`, `unk_token`, `pad_token`, ..."""
        if vocab_size is None:
            vocab_size = max(rules.get_vocab(with_added_tokens=True).values(), default=-1) + 1
            if vocab_size > _MOST_IDS:
                raise CheckpointError(f"{source} gives a token the id {vocab_size - 1}; ids must be below {_MOST_IDS}.")
        added = backend.get_added_tokens_decoder()
        unused = [] if rows is None else leftover_tokens(added, vocab_size, rows)
        if unused:
            vocab_size = unused[0]
            names = ", ".join(repr(added[index].content) for index in unused[:3])
            count = "an added token" if len(unused) == 1 else f"{len(unused)} added tokens"
            notes = [*notes, f"{source} has {count} without an embedding, not used: {names}."]
        self.vocab_size: int = vocab_size
        """The highest id plus one."""
        self.notes: tuple[str, ...] = tuple(notes)
        """Notes for the user about harmless faults of the files."""
        self._source = source
        self._backend = backend
        self._decoder = PieceDecoder(rules, source=source)
        # Of tokens inside a text that have been decoded: a reply has the same ones again and again.
        self._bytes: dict[int, bytes] = {}
        self._added = {index: token for index, token in added.items() if index < vocab_size}
        spellings = {token.content: index for index, token in self._added.items()}
        self.thinking: ThinkingFormat = thinking_format(spellings, templates)
        """How the model marks its thinking."""
        self._marking = frozenset(spellings[token] for token in marking_tokens(spellings))
        self.beginning: tuple[int, ...] = beginning_of(rules)
        """The ids before every raw text: BOS, in models that have one."""
        outside = [token for token in self.beginning if token >= vocab_size]
        if outside:
            raise CheckpointError(
                f"{source} adds the token {outside[0]} before every text, but the vocabulary has {vocab_size} tokens."
            )
        self._named = frozenset({*special, *special_tokens.values()})
        self._templates: tuple[str, ...] = tuple(templates)
        self._encoder = self._guarded_encoder()
        if isinstance(backend, Backend):
            # Fails at once if the library cannot encode with this file.
            self._begins_with_space  # noqa: B018

    def guard_template(self, source: str) -> None:
        """Protect the control tokens of a chat template that is not the model's own, given by its `source`."""
        self._templates = (*self._templates, source)
        self.thinking = thinking_format({token.content for token in self._added.values()}, self._templates)
        self._encoder = self._guarded_encoder()

    def _guarded_encoder(self) -> GuardedEncoder:
        plain = plain_tokens(
            self._added, named=self._named, templates=self._templates, special_tokens=self.special_tokens
        )
        return GuardedEncoder(self._backend, _unknown_id(self._backend), plain, source=self._source)

    def encode(self, text: str, *, add_special_tokens: bool = True, control_tokens: bool = False) -> list[int]:
        """Encode untrusted text: spellings of control tokens in it are encoded as text.

        With `control_tokens` these spellings become control tokens: only for a prompt that the caller wrote, never for
        text from elsewhere. If it begins with the tokenizer's beginning, no second one is added.

        `add_special_tokens` adds the tokenizer's beginning (BOS, if the model has one), but never its end, since the
        text is continued or scored.
        """
        segment = TextSegment(without_surrogates(text), trusted=control_tokens)
        ids = self._with_embedding(self._encoder.encode([segment]))
        begun = control_tokens and tuple(ids[: len(self.beginning)]) == self.beginning
        return [*self.beginning, *ids] if add_special_tokens and not begun else ids

    def encode_segments(self, segments: Sequence[TextSegment], *, continuation: bool = False) -> list[int]:
        """Encode the joined segments as one text, with control tokens in trusted segments only; adds nothing.

        With `continuation` other tokens come before, so no leading space is added.
        """
        segments = [TextSegment(without_surrogates(segment.text), segment.trusted) for segment in segments]
        if continuation and self._begins_with_space:
            lead = TextSegment("\n", trusted=False)
            head = self._encoder.encode([lead])
            ids = self._encoder.encode([lead, *segments])
            if ids[: len(head)] == head:
                return self._with_embedding(ids[len(head) :])
        return self._with_embedding(self._encoder.encode(segments))

    def _with_embedding(self, ids: list[int]) -> list[int]:
        """Return `ids`; raise `CheckpointError` if one has no embedding, as when a template writes a leftover token."""
        beyond = next((token for token in ids if token >= self.vocab_size), None)
        if beyond is not None:
            raise CheckpointError(
                f"The prompt has the token {self._backend.id_to_token(beyond)!r} ({beyond}) of {self._source}, but the "
                f"model has embeddings for {self.vocab_size} tokens."
            )
        return ids

    def to_json(self) -> str:
        """The tokenizer as the contents of a tokenizer.json."""
        text: str = self._backend.to_str()
        return text

    def control_spans(self, text: str) -> list[tuple[int, int]]:
        """Spans (start, end) in characters where `text` spells control tokens. `text` must be valid Unicode."""
        return self._encoder.control_spans(text)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Decode `ids`: their joined bytes as UTF-8, with U+FFFD for invalid bytes.

        Removes the space that SentencePiece tokenizers add before a text.
        """
        kept = [token for token in ids if self.piece(token) and not (skip_special and self.is_silent(token))]
        data = b"".join(self.token_bytes(token, first=place == 0) for place, token in enumerate(kept))
        text = data.decode("utf-8", errors="replace")
        spaces = len(text) - len(text.lstrip(" "))
        return text[min(spaces, self.stripped_spaces) :]

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """The bytes of `token` inside a text, or at its beginning if `first`; empty for ids without a token."""
        known = None if first else self._bytes.get(token)
        if known is None:
            known = self._decoder.piece_bytes(self.piece(token), first=first, added=token in self._added)
            if not first:
                self._bytes[token] = known
        return known

    def token_text(self, token: int) -> str:
        """The text of one token by itself; incomplete characters become U+FFFD."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def piece(self, token: int) -> str:
        """The spelling of `token` in the vocabulary; empty for ids without a token."""
        if not 0 <= token < self.vocab_size:
            return ""
        return self._backend.id_to_token(token) or ""

    def token_to_id(self, piece: str) -> int | None:
        """The id of the token with the spelling `piece` in the vocabulary; None if there is none."""
        found: int | None = self._backend.token_to_id(without_surrogates(piece))
        return found if found is not None and found < self.vocab_size else None

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control token."""
        added = self._added.get(token)
        return added is not None and added.special

    def is_silent(self, token: int) -> bool:
        """Whether `token` is a control token that is left out of decoded text: all except thinking marks."""
        return self.is_special(token) and token not in self._marking

    def is_guarded(self, token: int) -> bool:
        """Whether untrusted text is never encoded to `token`: it is an added token and not plain text."""
        return token in self._encoder.protected

    def marks_thoughts(self, token: int) -> bool:
        """Whether `token` is a thinking mark."""
        return token in self._marking

    def is_added(self, token: int) -> bool:
        """Whether `token` is an added token, matched as a whole rather than by the rules for ordinary vocabulary."""
        return token in self._added

    @property
    def stripped_spaces(self) -> int:
        """Number of spaces that `decode` removes from the beginning of a text."""
        return self._decoder.stripped_spaces

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self._role_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        return self._role_id("eos_token")

    def _role_id(self, role: str) -> int | None:
        piece = self.special_tokens.get(role)
        return None if piece is None else self.token_to_id(piece)

    @cached_property
    def _begins_with_space(self) -> bool:
        """Whether text gets a space at its beginning, as SentencePiece tokenizers add; a continuation must not."""
        # Each is found in the tokenizer that this builds for all three.
        covering(self._backend, "\na", "\n", "a")
        return self._plain_ids("\na") != self._plain_ids("\n") + self._plain_ids("a")

    def _plain_ids(self, text: str) -> list[int]:
        return self._encoder.encode([TextSegment(text, trusted=True)])


def _unknown_id(backend: Backend | OnDemandBackend) -> int | None:
    """The id for text outside the vocabulary; None if there is none."""
    model = rules_of(backend).model
    if isinstance(model, models.Unigram):
        # This class has no attribute for it.
        index = json.loads(model.__getstate__()).get("unk_id")
        return index if isinstance(index, int) else None
    unknown = getattr(model, "unk_token", None)
    found: int | None = backend.token_to_id(unknown) if isinstance(unknown, str) else None
    return found
