"""Build a tokenizer from some or all tokens of a GGUF file's vocabulary, for each of the three kinds of tokenizers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from llmcli.text.on_demand.backend import OnDemandBackend
from llmcli.text.on_demand.packed_strings import PackedStrings
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.bpe.pretokenizers import IGNORES_MERGES, gguf_pre_tokenizer
from llmcli.text.vocab.sentencepiece.bpe import (
    LONGEST_PIECE,
    bpe_of_pieces,
    check_pieces,
    piece_of,
    sentencepiece_bpe,
    set_space_rules,
)
from llmcli.text.vocab.token_types import USER_DEFINED, TypedVocabulary, add_tokens, added_tokens

BYTE_LEVEL, SENTENCEPIECE, GEMMA = "gpt2", "llama", "gemma4"
"""Kinds of tokenizers: byte-level BPE, SentencePiece BPE, and Gemma 4's."""

_SPACE_AND_END = b" \xff"
_OTHERS = bytes(set(range(256)) - set(_SPACE_AND_END))
_LINE_ENDS = frozenset(b"\n" * count for count in range(1, LONGEST_PIECE + 1))
_BYTE_TOKENS = frozenset(b"<0x%02X>" % byte for byte in range(256))


@dataclass(frozen=True)
class PackedVocabulary(TypedVocabulary):
    """The tokens of a file, packed, and their types."""

    tokens: PackedStrings


@dataclass(frozen=True)
class GGUFBuilder:
    """The checked parts of a vocabulary, and the rules of its tokenizer."""

    kind: str
    vocabulary: PackedVocabulary
    rule: str
    """The name of the rule that splits text into words, for byte-level BPE."""
    unknown: int | None
    """The id for text outside the vocabulary."""
    bos: int | None
    """The id that begins every text; None: nothing does."""
    space_prefix: bool
    """Whether SentencePiece adds a space before text."""
    scores: Sequence[float]
    """The score of each token, for SentencePiece BPE."""
    merges: PackedStrings
    """The merges in the file, for the other kinds: two pieces with a space between them."""

    def backend(self, known: Mapping[str, int | None]) -> Backend | OnDemandBackend:
        """The tokenizer; `known` are ids of spellings that will be looked up, None for those that do not exist.

        Raises:
            CheckpointError: the parts do not fit together.
        """
        tokens, kind = self.vocabulary.tokens, self.kind
        if kind == SENTENCEPIECE:
            check_pieces(self.vocabulary, self.scores, self.unknown)
            if tokens.longest > LONGEST_PIECE:
                return self.build(None, {})
        always = {} if self.unknown is None else {self.unknown: tokens[self.unknown]}
        if kind != BYTE_LEVEL:
            always |= {index: tokens[index] for index in tokens.matches(_BYTE_TOKENS)}
        if kind == SENTENCEPIECE:
            always |= self._space_runs()
        added = added_tokens(self.vocabulary, space_runs=kind == BYTE_LEVEL)
        return OnDemandBackend(tokens, self.build, always=always, added=added, known=known)

    def build(self, ids: Collection[int] | None, renamed: Mapping[int, str]) -> Backend:
        """A tokenizer with the tokens `ids`, or all, of which `renamed` have other spellings; see `BuildBackend`."""
        vocabulary: TypedVocabulary = self.vocabulary
        with wrap_tokenizer_errors(f"{vocabulary.source} has a damaged tokenizer"):
            if ids is None:
                whole = list(vocabulary.tokens)
                vocabulary = TypedVocabulary(vocabulary.source, whole, vocabulary.types)
                ids = range(len(whole))
            backend = Backend(self._model(vocabulary, ids, renamed))
            if self.kind == BYTE_LEVEL:
                backend.pre_tokenizer = gguf_pre_tokenizer(self.rule, source=vocabulary.source)
                backend.decoder = decoders.ByteLevel()
            else:
                set_space_rules(backend, "every" if self.kind == SENTENCEPIECE and self.space_prefix else "none")
                if self.kind == GEMMA:
                    # Line ends never merge with other text, and as many as one token holds become that token.
                    backend.pre_tokenizer = pre_tokenizers.Split(
                        Regex(f"\n{{1,{self._longest_line_ends}}}"), "isolated"
                    )
            add_tokens(backend, self._added(vocabulary, ids, renamed))
            if self.bos is not None:
                text = vocabulary.tokens[self.bos]
                backend.post_processor = processors.TemplateProcessing(
                    single=[text, "$A"], special_tokens=[(text, self.bos)]
                )
        return backend

    def _model(self, vocabulary: TypedVocabulary, ids: Collection[int], renamed: Mapping[int, str]) -> models.BPE:
        if self.kind == SENTENCEPIECE:
            if not renamed and len(ids) == len(vocabulary.tokens):
                return sentencepiece_bpe(vocabulary, self.scores, self.unknown)
            pieces = {index: renamed.get(index) or piece_of(vocabulary, index) for index in ids}
            return bpe_of_pieces(vocabulary, pieces, self.scores, self.unknown)
        spellings = {renamed.get(index) or vocabulary.tokens[index]: index for index in ids}
        merges = self._pairs(spellings, some=len(ids) < len(vocabulary.tokens))
        if self.kind == BYTE_LEVEL:
            return models.BPE(spellings, merges, ignore_merges=self.rule in IGNORES_MERGES)
        unknown = None if self.unknown is None else renamed.get(self.unknown) or vocabulary.tokens[self.unknown]
        return models.BPE(spellings, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)

    def _pairs(self, ids: Mapping[str, int], *, some: bool) -> list[tuple[str, str]]:
        """The merges between the pieces `ids`; `some`: most merges are between other pieces."""
        lines: Iterable[str] = self.merges
        if some:
            splits = ((piece[:cut], piece[cut:]) for piece in ids for cut in range(1, len(piece)))
            wanted = {f"{first} {second}".encode() for first, second in splits if first in ids and second in ids}
            lines = map(self.merges.__getitem__, self.merges.matches(wanted))
        pairs = map(_pair, lines)
        return [pair for pair in pairs if pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids]

    def _added(
        self, vocabulary: TypedVocabulary, ids: Collection[int], renamed: Mapping[int, str]
    ) -> Iterable[AddedToken]:
        if len(ids) < len(vocabulary.tokens):
            ids = sorted(ids)
            types = [vocabulary.types[index] for index in ids]
            vocabulary = TypedVocabulary(vocabulary.source, [vocabulary.tokens[index] for index in ids], types)
        for place, token in added_tokens(vocabulary, space_runs=self.kind == BYTE_LEVEL).items():
            name = renamed.get(ids[place] if isinstance(ids, list) else place)
            yield token if name is None else AddedToken(name, special=token.special, normalized=False)

    def _space_runs(self) -> dict[int, str]:
        """The user-defined runs of spaces, as they appear in normalized text."""
        vocabulary = self.vocabulary
        user_defined = (index for index, kind in enumerate(vocabulary.types) if kind == USER_DEFINED)
        runs = {index: piece_of(vocabulary, index) for index in user_defined if vocabulary.is_space_run(index)}
        respelled = {piece.encode() for index, piece in runs.items() if piece != vocabulary.tokens[index]}
        same = respelled and vocabulary.tokens.matches(respelled)
        if same or len(set(runs.values())) < len(runs):
            raise vocabulary.error("two tokens are spelled the same.")
        return runs

    @cached_property
    def _longest_line_ends(self) -> int:
        """The number of line ends in the longest token that has nothing else; 1 if there is none."""
        tokens = self.vocabulary.tokens
        return max((len(tokens[index]) for index in tokens.matches(_LINE_ENDS)), default=1)


def unknown_merges(merges: PackedStrings, vocabulary: PackedVocabulary) -> int:
    """Count the merges of pieces that are not in the vocabulary.

    Raises:
        CheckpointError: there are no merges, or one is not a pair of pieces.
    """
    if not merges:
        raise vocabulary.error("there are no merges (tokenizer.ggml.merges).")
    pieces = vocabulary.tokens.encoded_set()
    if all(_are_pairs(block, pieces) for block in merges.blocks()):
        return 0
    unknown = 0
    for line in merges:
        first, second = _pair(line)
        if not second:
            raise vocabulary.error(f"the merge {line!r} is not a pair of pieces.")
        unknown += not pieces.issuperset((first.encode(), second.encode(), (first + second).encode()))
    return unknown


def _are_pairs(block: bytes, pieces: Collection[bytes]) -> bool:
    """Whether each line, ended by 0xFF, is two `pieces` with the only space between them, and their sum is a piece."""
    count = block.count(_SPACE_AND_END[1:])
    if block.translate(None, _OTHERS) != _SPACE_AND_END * count:
        return False
    parts = block.replace(b" ", b"\xff").split(b"\xff")
    sums = block.replace(b" ", b"").split(b"\xff")
    return all(part in pieces for part in parts[:-1]) and all(part in pieces for part in sums[:-1])


def _pair(line: str) -> tuple[str, str]:
    """The two pieces of a merge, which a space separates; the second is empty if there is no separator."""
    first, _, second = line.partition(" ")
    if not first:
        # The first piece may itself begin with a space.
        first, _, second = line[1:].partition(" ")
        first = f" {first}"
    return first, second
