"""Build a tokenizer from the metadata of a GGUF file.

Three kinds are supported: byte-level BPE (`gpt2`) with its merges in the file, SentencePiece BPE (`llama`), whose
merges are derived from the scores of its pieces, and Gemma 4's (`gemma4`): SentencePiece's pieces with merges in the
file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from tokenizers import Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.stop_tokens import KNOWN_END_OF_TURN, as_token_id, is_no_id
from llmcli.text.token_bytes import byte_of
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.bpe.pretokenizers import BOS_BY_DEFAULT, IGNORES_MERGES, gguf_pre_tokenizer
from llmcli.text.vocab.garbage_collection import no_collection
from llmcli.text.vocab.sentencepiece.bpe import sentencepiece_bpe, set_space_rules
from llmcli.text.vocab.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, TypedVocabulary, add_tokens, as_spellings

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
    "gpt2": {"bos": 11, "eos": 11},
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "gemma4": {"bos": 2, "eos": 1, "unknown": 3},
}


@dataclass(frozen=True)
class _Vocabulary(TypedVocabulary):
    """The checked arrays of the file."""

    metadata: Mapping[str, object]
    ids: dict[str, int]
    """Token ids by spelling."""
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
def gguf_backend(metadata: Mapping[str, object], *, source: str) -> tuple[Backend, dict[str, str], tuple[str, ...]]:
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
    byte_level, defaults = kind == "gpt2", _DEFAULT_IDS[kind]
    ids = {role: vocabulary.token_id(name, defaults.get(name)) for role, name in _ROLES.items()}
    fill_in = {role: vocabulary.first_token_id(names) for role, names in _FILL_IN_ROLES.items()}
    special_tokens = {role: vocabulary.tokens[index] for role, index in {**ids, **fill_in}.items() if index is not None}
    with wrap_tokenizer_errors(f"{source} has a damaged tokenizer"):
        if byte_level:
            backend = _byte_level(vocabulary)
        else:
            backend = (_gemma if kind == "gemma4" else _sentencepiece)(vocabulary, ids["unk_token"])
        add_tokens(backend, vocabulary, space_runs=byte_level)
        pre = metadata.get(f"{_KEY}pre")
        bos = ids["bos_token"]
        # Some files of Gemma 4 say that their texts have no BOS, which llama.cpp overrides.
        always = kind == "gemma4"
        adds_bos = always or vocabulary.flag("add_bos_token", pre in BOS_BY_DEFAULT if byte_level else True)
        if bos is not None and adds_bos:
            text = vocabulary.tokens[bos]
            backend.post_processor = processors.TemplateProcessing(single=[text, "$A"], special_tokens=[(text, bos)])
    return backend, special_tokens, tuple(vocabulary.notes)


def _read_vocabulary(metadata: Mapping[str, object], source: str) -> _Vocabulary:
    tokens = cast("list[str]", _array(metadata, "tokens", (str,), source))
    if not tokens:
        raise CheckpointError(f"{source} has no vocabulary ({_KEY}tokens).")
    tokens = as_spellings(tokens)
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise CheckpointError(f"{source} has a damaged tokenizer: two tokens are spelled the same.")
    types = cast("list[int]", _array(metadata, "token_type", (int,), source)) or [
        BYTE if byte_of(token) is not None else NORMAL for token in tokens
    ]
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
    for token in KNOWN_END_OF_TURN:
        # Some converters did not mark them as control tokens; as ordinary text they would never end a turn.
        if token in ids and types[ids[token]] == NORMAL:
            types[ids[token]] = CONTROL
    return _Vocabulary(source, tokens, types, metadata, ids, notes)


def _mark_control(metadata: Mapping[str, object], types: list[int]) -> None:
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


def _byte_level(vocabulary: _Vocabulary) -> Backend:
    metadata, source = vocabulary.metadata, vocabulary.source
    pre = metadata.get(f"{_KEY}pre", "default")
    if not isinstance(pre, str):
        raise vocabulary.error(f"{_KEY}pre is {pre!r}, not a name.")
    merges = _stored_merges(vocabulary)
    backend = Backend(models.BPE(vocabulary.ids, merges, ignore_merges=pre in IGNORES_MERGES))
    backend.pre_tokenizer = gguf_pre_tokenizer(pre, source=source)
    backend.decoder = decoders.ByteLevel()
    return backend


def _stored_merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """The merges in the file, without those of pieces that are not in the vocabulary."""
    metadata, source = vocabulary.metadata, vocabulary.source
    lines = cast("list[str]", _array(metadata, "merges", (str,), source))
    if not lines:
        raise vocabulary.error(f"there are no merges ({_KEY}merges).")
    merges = []
    ids, unknown = vocabulary.ids, 0
    for line in lines:
        first, _, second = line.partition(" ")
        if not first:
            # The first piece may itself begin with a space.
            first, _, second = line[1:].partition(" ")
            first = f" {first}"
        if not second:
            raise vocabulary.error(f"the merge {line!r} is not a pair of pieces.")
        if first in ids and second in ids and first + second in ids:
            merges.append((first, second))
        else:
            unknown += 1
    if unknown:
        vocabulary.notes.append(
            f"{source} has {unknown} of {len(lines)} merges of pieces that are not in its vocabulary; not used."
        )
    if 2 * unknown > len(lines):
        raise vocabulary.error(f"{unknown} of {len(lines)} merges are of pieces that are not in the vocabulary.")
    return merges


def _sentencepiece(vocabulary: _Vocabulary, unknown: int | None) -> Backend:
    scores = cast("list[float]", _array(vocabulary.metadata, "scores", (float, int), vocabulary.source))
    backend = Backend(sentencepiece_bpe(vocabulary, scores, unknown))
    set_space_rules(backend, "every" if vocabulary.flag("add_space_prefix", True) else "none")
    return backend


def _gemma(vocabulary: _Vocabulary, unknown: int | None) -> Backend:
    """Gemma 4's: pieces of plain text, with spaces escaped, that are merged in the order of the file."""
    if unknown is None and vocabulary.types.count(BYTE) < 256:
        raise vocabulary.error("there is neither an unknown token nor one for each byte.")
    token = None if unknown is None else vocabulary.tokens[unknown]
    merges = _stored_merges(vocabulary)
    backend = Backend(models.BPE(vocabulary.ids, merges, unk_token=token, fuse_unk=True, byte_fallback=True))
    set_space_rules(backend, "none")
    # Line ends never merge with other text, and as many as one token holds become that token.
    longest = max((len(token) for token in vocabulary.tokens if token and not token.strip("\n")), default=1)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(f"\n{{1,{longest}}}"), "isolated")
    return backend
