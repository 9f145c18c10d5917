"""Build a tokenizer from the metadata of a GGUF file.

Three kinds are supported: byte-level BPE (`gpt2`) with its merges in the file, SentencePiece BPE (`llama`), whose
merges are derived from the scores of its pieces, and Gemma 4's (`gemma4`): SentencePiece's pieces with merges in the
file.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import cast

from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.on_demand.backend import OnDemandBackend
from llmcli.text.on_demand.packed_strings import PackedStrings
from llmcli.text.stop_tokens import KNOWN_END_OF_TURN, as_token_id, is_no_id
from llmcli.text.token_bytes import byte_of
from llmcli.text.trusted_encoding import without_surrogates
from llmcli.text.vocab.bpe.pretokenizers import BOS_BY_DEFAULT, gguf_pre_tokenizer
from llmcli.text.vocab.garbage_collection import no_collection
from llmcli.text.vocab.gguf_build import BYTE_LEVEL, GEMMA, SENTENCEPIECE, GGUFBuilder, PackedVocabulary, unknown_merges
from llmcli.text.vocab.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, as_spellings

_KEY = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# Fill-in-the-middle tokens, with the keys of newer and of older files.
_FILL_IN_ROLES = {
    "prefix_token": ("fim_pre", "prefix"),
    "suffix_token": ("fim_suf", "suffix"),
    "middle_token": ("fim_mid", "middle"),
    "eot_token": ("eot",),
    "fim_pad_token": ("fim_pad",),
    "fim_rep_token": ("fim_rep",),
    "fim_sep_token": ("fim_sep",),
}


# Ids of special tokens where a file names none, for each kind of tokenizer.
_DEFAULT_IDS = {
    BYTE_LEVEL: {"bos": 11, "eos": 11},
    SENTENCEPIECE: {"bos": 1, "eos": 2, "unknown": 0},
    GEMMA: {"bos": 2, "eos": 1, "unknown": 3},
}
# Rules for words of byte-level BPE whose vocabularies in truth have pieces as Gemma 4's, with merges.
_LIKE_GEMMA = ("sarvam-moe",)


@dataclass(frozen=True)
class _Vocabulary(PackedVocabulary):
    """The checked arrays of the file."""

    metadata: Mapping[str, object]
    known: dict[str, int | None]
    """The ids of tokens that end a turn, by spelling; None for those that do not exist."""
    notes: list[str]
    """Notes about ignored metadata."""

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(_KEY + name, default)
        if not isinstance(value, bool | int):
            raise self.error(f"{_KEY}{name} is {value!r}, not true or false.")
        return bool(value)

    def token_id(self, name: str, default: int | None) -> int | None:
        """The id in `tokenizer.ggml.{name}_token_id`; the default is used only if it is not an ordinary token.

        An id outside the vocabulary is ignored, as in llama.cpp: some files name tokens that do not exist.
        """
        key = f"{_KEY}{name}_token_id"
        value = self.metadata.get(key)
        found = as_token_id(value, len(self.tokens))
        if found is not None:
            return found
        if value is not None and not is_no_id(value):
            self.notes.append(f"{self.source} has {key} = {value!r:.40} for {len(self.tokens)} tokens; not used.")
        plausible = default is not None and default < len(self.tokens) and self.types[default] != NORMAL
        return default if plausible else None

    def first_token_id(self, names: Sequence[str]) -> int | None:
        """The first valid id in the keys for `names`."""
        values = (self.metadata.get(f"{_KEY}{name}_token_id") for name in names)
        found = (as_token_id(value, len(self.tokens)) for value in values)
        return next((token for token in found if token is not None), None)


def gguf_templates(metadata: Mapping[str, object]) -> dict[str, str]:
    """The sources of the chat templates in a GGUF file's `metadata`, by name."""
    return {
        key.removeprefix(_TEMPLATE).lstrip(".") or "default": value
        for key, value in metadata.items()
        if key.startswith(_TEMPLATE) and isinstance(value, str)
    }


@no_collection()
def gguf_backend(
    metadata: Mapping[str, object], *, source: str
) -> tuple[Backend | OnDemandBackend, dict[str, str], tuple[str, ...]]:
    """Build the tokenizer of a GGUF file's `metadata`; also returns special tokens by role, and notes.

    Raises:
        CheckpointError: arrays are missing, of the wrong type or inconsistent.
        UnsupportedModelError: the kind of tokenizer or the pre-tokenizer is unknown.
    """
    kind = metadata.get(f"{_KEY}model")
    if not isinstance(kind, str) or kind not in _DEFAULT_IDS:
        raise UnsupportedModelError(
            f"{source} has a tokenizer of the kind {kind!r}; supported are byte-level BPE ('gpt2'), "
            "SentencePiece BPE ('llama') and Gemma 4's ('gemma4')."
        )
    vocabulary = _read_vocabulary(metadata, source)
    defaults = _DEFAULT_IDS[kind]
    # Some files of Gemma 4 say that their texts have no BOS, which llama.cpp overrides.
    always = kind == GEMMA
    if kind == BYTE_LEVEL and metadata.get(f"{_KEY}pre") in _LIKE_GEMMA:
        kind = GEMMA
    byte_level = kind == BYTE_LEVEL
    ids = {role: vocabulary.token_id(name, defaults.get(name)) for role, name in _ROLES.items()}
    fill_in = {role: vocabulary.first_token_id(names) for role, names in _FILL_IN_ROLES.items()}
    special_tokens = {role: vocabulary.tokens[index] for role, index in {**ids, **fill_in}.items() if index is not None}
    rule = metadata.get(f"{_KEY}pre", "default")
    if byte_level:
        if not isinstance(rule, str):
            raise vocabulary.error(f"{_KEY}pre is {rule!r}, not a name.")
        gguf_pre_tokenizer(rule, source=source)
    unknown = ids["unk_token"]
    if kind == GEMMA and unknown is None and vocabulary.types.count(BYTE) < 256:
        raise vocabulary.error("there is neither an unknown token nor one for each byte.")
    begins = always or vocabulary.flag(
        "add_bos_token", kind == SENTENCEPIECE or (byte_level and metadata.get(f"{_KEY}pre") in BOS_BY_DEFAULT)
    )
    builder = GGUFBuilder(
        kind,
        vocabulary,
        rule=str(rule),
        unknown=None if byte_level else unknown,
        bos=ids["bos_token"] if begins else None,
        space_prefix=vocabulary.flag("add_space_prefix", True) if kind == SENTENCEPIECE else False,
        scores=_scores(metadata, source) if kind == SENTENCEPIECE else (),
        merges=PackedStrings([]) if kind == SENTENCEPIECE else _merges(vocabulary),
    )
    return builder.backend(vocabulary.known), special_tokens, tuple(vocabulary.notes)


def _read_vocabulary(metadata: Mapping[str, object], source: str) -> _Vocabulary:
    tokens = _strings(metadata, "tokens", source)
    if not tokens:
        raise CheckpointError(f"{source} has no vocabulary ({_KEY}tokens).")
    if tokens.has_duplicates():
        raise CheckpointError(f"{source} has a damaged tokenizer: two tokens are spelled the same.")
    types = _token_types(metadata, tokens, source)
    notes = []
    if len(types) > len(tokens):
        notes.append(f"{source} has types for {len(types)} tokens, but only {len(tokens)} tokens; the rest is ignored.")
        del types[len(tokens) :]
    if len(types) != len(tokens):
        raise CheckpointError(
            f"{source} has a damaged tokenizer: {len(tokens)} tokens, but types for {len(types)} of them."
        )
    if f"{_KEY}token_type" not in metadata:
        _mark_control(metadata, types)
    known: dict[str, int | None] = dict.fromkeys(KNOWN_END_OF_TURN)
    for index in tokens.matches({token.encode() for token in known}):
        known[tokens[index]] = index
        # Some converters did not mark them as control tokens; as ordinary text they would never end a turn.
        if types[index] == NORMAL:
            types[index] = CONTROL
    return _Vocabulary(source, tokens, types, metadata, known, notes)


def _strings(metadata: Mapping[str, object], name: str, source: str) -> PackedStrings:
    """The strings in `tokenizer.ggml.{name}` as the `tokenizers` library accepts them."""
    value = metadata.get(_KEY + name)
    if isinstance(value, PackedStrings) and not value.has_empty():
        return value
    texts = list(value) if isinstance(value, PackedStrings) else _array(metadata, name, (str,), source)
    return PackedStrings(text.encode() for text in as_spellings(cast("list[str]", texts)))


def _token_types(metadata: Mapping[str, object], tokens: Sequence[str], source: str) -> MutableSequence[int]:
    """The type of each token, in a sequence that may be changed."""
    types = metadata.get(f"{_KEY}token_type")
    if isinstance(types, array) and types.typecode not in "fd":
        return types[:]
    return cast("list[int]", _array(metadata, "token_type", (int,), source)) or [
        BYTE if byte_of(token) is not None else NORMAL for token in tokens
    ]


def _scores(metadata: Mapping[str, object], source: str) -> Sequence[float]:
    scores = metadata.get(f"{_KEY}scores")
    return (
        scores if isinstance(scores, array) else cast("list[float]", _array(metadata, "scores", (float, int), source))
    )


def _merges(vocabulary: _Vocabulary) -> PackedStrings:
    """The merges in the file, with a note if there are some of pieces that are not in the vocabulary."""
    source, value = vocabulary.source, vocabulary.metadata.get(f"{_KEY}merges")
    invalid = 0
    if isinstance(value, PackedStrings):
        merges = value
    else:
        lines = cast("list[str]", _array(vocabulary.metadata, "merges", (str,), source))
        # Spellings in the vocabulary are valid Unicode.
        valid = [line for line in lines if line == without_surrogates(line)]
        merges, invalid = PackedStrings(line.encode() for line in valid), len(lines) - len(valid)
    unknown, total = unknown_merges(merges, vocabulary) + invalid, len(merges) + invalid
    if unknown:
        vocabulary.notes.append(
            f"{source} has {unknown} of {total} merges of pieces that are not in its vocabulary; not used."
        )
    if 2 * unknown > total:
        raise vocabulary.error(f"{unknown} of {total} merges are of pieces that are not in the vocabulary.")
    return merges


def _mark_control(metadata: Mapping[str, object], types: MutableSequence[int]) -> None:
    """Mark BOS, EOS and the unknown token by their keys, for old files without token types."""
    for name, kind in (("bos", CONTROL), ("eos", CONTROL), ("unknown", UNKNOWN)):
        index = metadata.get(f"{_KEY}{name}_token_id")
        if isinstance(index, int) and 0 <= index < len(types):
            types[index] = kind


def _array(metadata: Mapping[str, object], name: str, kinds: tuple[type, ...], source: str) -> list[object]:
    """The array in `tokenizer.ggml.{name}`; empty if there is none."""
    value = metadata.get(_KEY + name, ())
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise CheckpointError(f"{source} has a damaged tokenizer: {_KEY}{name} is not an array.")
    if not set(map(type, values)) <= set(kinds):
        raise CheckpointError(f"{source} has a damaged tokenizer: {_KEY}{name} holds values of the wrong type.")
    return list(values)
