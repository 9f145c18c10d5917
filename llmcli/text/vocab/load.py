"""Load a model's tokenizer from its files: one function per format.

Formats: `tokenizer.json`, `tokenizer.model`, tiktoken's, `vocab.json` with `merges.txt`, `tekken.json`, and GGUF
metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized

from tokenizers import Tokenizer as Backend

from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.text.expansion_limit import refuse_growth
from llmcli.text.special_tokens import (
    add_listed_tokens,
    declared_special,
    mark_special,
    named_special_tokens,
    with_listed_ids,
)
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.vocab.bpe.byte_level import add_beginning, byte_level_backend, implied_roles
from llmcli.text.vocab.bpe.tekken import TEKKEN_ROLES, tekken_backend
from llmcli.text.vocab.bpe.tiktoken import LLAMA3, TiktokenVocabulary
from llmcli.text.vocab.gguf import gguf_backend, gguf_templates
from llmcli.text.vocab.mistral_regex_fix import mend_mistral_words
from llmcli.text.vocab.tokenizer_classes import TokenizerClass
from llmcli.text.vocab.tokenizer_model import model_file_backend


def tokenizer_from_json(
    text: str | bytes,
    *,
    source: str,
    tokenizer_config: Mapping[str, object] | None = None,
    special_tokens_map: Mapping[str, object] | None = None,
    added_tokens: Mapping[str, object] | None = None,
    templates: Collection[str] = (),
    rows: int | None = None,
) -> Tokenizer:
    """Build the tokenizer of a Hugging Face folder from the contents of its files.

    `text` is the tokenizer.json at `source`, whose post-processor decides which tokens are added before raw text. The
    other arguments are the parsed files of these names next to it, the sources of the chat `templates`, and the number
    of tokens that have embeddings (`rows`).

    Raises:
        CheckpointError: the contents are damaged or inconsistent.
        UnsupportedModelError: the tokens of this kind of tokenizer cannot be decoded one by one.
    """
    with wrap_tokenizer_errors(f"{source} is not a valid tokenizer"):
        text = text.decode() if isinstance(text, bytes) else text
        refuse_growth(text, source=source)
        backend = Backend.from_str(text)
        mended = mend_mistral_words(backend)
    notes = (
        f"{source} splits words by a rule the model was not trained with, a known fault of older conversions; "
        "Mistral's own rule is used.",
    )
    return _with_files_beside(
        backend,
        {},
        source,
        tokenizer_config,
        special_tokens_map,
        added_tokens,
        templates,
        rows,
        notes=notes if mended else (),
    )


def tokenizer_from_model_file(
    data: bytes,
    *,
    source: str,
    tokenizer_config: Mapping[str, object] | None = None,
    special_tokens_map: Mapping[str, object] | None = None,
    added_tokens: Mapping[str, object] | None = None,
    templates: Collection[str] = (),
    rows: int | None = None,
    vocabulary: TiktokenVocabulary = LLAMA3,
) -> Tokenizer:
    """Build the tokenizer of the file at `source` with the contents `data`.

    It is a SentencePiece model, or the `vocabulary` in tiktoken's format. The flags of `tokenizer_config` decide which
    tokens are added around raw text.

    Raises:
        CheckpointError: the contents are damaged or inconsistent.
        UnsupportedModelError: the kind of tokenizer is not supported.
    """
    backend, roles = model_file_backend(data, tokenizer_config or {}, source=source, vocabulary=vocabulary)
    return _with_files_beside(
        backend, roles, source, tokenizer_config, special_tokens_map, added_tokens, templates, rows
    )


def tokenizer_from_vocabulary(
    vocabulary: Mapping[str, object],
    merges: str,
    *,
    rules: TokenizerClass,
    source: str,
    tokenizer_config: Mapping[str, object] | None = None,
    special_tokens_map: Mapping[str, object] | None = None,
    added_tokens: Mapping[str, object] | None = None,
    templates: Collection[str] = (),
    rows: int | None = None,
) -> Tokenizer:
    """Build the tokenizer of the parsed `vocab.json` at `source` and the text of the `merges.txt` next to it.

    These files do not say how text is split into words: `rules` is the tokenizer class of transformers that does.

    Raises:
        CheckpointError: the contents are damaged or inconsistent.
    """
    config = tokenizer_config or {}
    vocabulary = with_listed_ids(vocabulary, tokenizer_config, added_tokens)
    backend = byte_level_backend(vocabulary, merges, config, rules=rules, source=source)
    with wrap_tokenizer_errors(f"{source} is not a valid tokenizer"):
        notes = add_listed_tokens(backend, tokenizer_config, added_tokens, templates=templates, source=source)
        named = implied_roles(backend, config, rules) | named_special_tokens(tokenizer_config, special_tokens_map)
        special = declared_special(tokenizer_config, special_tokens_map)
        # Older files list added tokens in one file and which of them are special in another.
        listed = {token: token for token in sorted(special)}
        notes += mark_special(backend, {**named, **listed}, source=source)
        add_beginning(backend, named, config, source=source)
        return Tokenizer(backend, named, source=source, rows=rows, special=special, templates=templates, notes=notes)


def tokenizer_from_tekken(
    text: str,
    *,
    source: str,
    tokenizer_config: Mapping[str, object] | None = None,
    special_tokens_map: Mapping[str, object] | None = None,
    added_tokens: Mapping[str, object] | None = None,
    templates: Collection[str] = (),
    rows: int | None = None,
) -> Tokenizer:
    """Build the tokenizer of Mistral's `tekken.json` at `source` with the contents `text`.

    Raises:
        CheckpointError: the contents are damaged or inconsistent.
    """
    backend = tekken_backend(text, source=source)
    return _with_files_beside(
        backend, TEKKEN_ROLES, source, tokenizer_config, special_tokens_map, added_tokens, templates, rows
    )


def tokenizer_from_gguf(metadata: Mapping[str, object], *, source: str, rows: int | None = None) -> Tokenizer:
    """Build the tokenizer of the GGUF file at `source` from its metadata; the model has embeddings for `rows` tokens.

    Raises:
        CheckpointError: the metadata are damaged.
        UnsupportedModelError: the kind of tokenizer is not supported.
    """
    templates = list(gguf_templates(metadata).values())
    notes: list[str] = []
    embedded = metadata.get("tokenizer.huggingface.json")
    if isinstance(embedded, str):
        try:
            tokenizer = tokenizer_from_json(embedded, source=source, templates=templates, rows=rows)
        except (CheckpointError, UnsupportedModelError) as error:
            if "tokenizer.ggml.tokens" not in metadata:
                raise
            notes.append(f"The embedded tokenizer.json is ignored in favor of the GGUF vocabulary: {error}")
        else:
            for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown")):
                index = metadata.get(f"tokenizer.ggml.{key}_token_id")
                if isinstance(index, int) and tokenizer.piece(index):
                    tokenizer.special_tokens[role] = tokenizer.piece(index)
            return tokenizer
    backend, special_tokens, more = gguf_backend(metadata, source=source)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Sized)
    with wrap_tokenizer_errors(f"{source} has a damaged tokenizer"):
        return Tokenizer(
            backend,
            special_tokens,
            source=source,
            vocab_size=len(tokens),
            rows=rows,
            templates=templates,
            notes=[*notes, *more],
        )


def _with_files_beside(
    backend: Backend,
    roles: Mapping[str, str],
    source: str,
    tokenizer_config: Mapping[str, object] | None,
    special_tokens_map: Mapping[str, object] | None,
    added_tokens: Mapping[str, object] | None,
    templates: Collection[str],
    rows: int | None,
    *,
    notes: Sequence[str] = (),
) -> Tokenizer:
    """Add the tokens declared in other files to `backend`; `roles` are the special tokens they do not declare."""
    named = dict(roles) | named_special_tokens(tokenizer_config, special_tokens_map)
    with wrap_tokenizer_errors(f"{source} is not a valid tokenizer"):
        more = add_listed_tokens(backend, tokenizer_config, added_tokens, templates=templates, source=source)
        more += mark_special(backend, named, source=source)
        return Tokenizer(
            backend,
            named,
            source=source,
            rows=rows,
            special=declared_special(tokenizer_config, special_tokens_map),
            templates=templates,
            notes=[*notes, *more],
        )
