"""Build a tokenizer from a `tokenizer.model` or a file of its kind: a SentencePiece model, or tiktoken's ranks."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from llmcli.text.tokenizers_errors import wrap_tokenizer_errors
from llmcli.text.trusted_encoding import without_surrogates
from llmcli.text.vocab.bpe.tiktoken import LLAMA3, TiktokenVocabulary, is_tiktoken_model, tiktoken_backend
from llmcli.text.vocab.sentencepiece.bpe import SpacePrefix
from llmcli.text.vocab.sentencepiece.build import sentencepiece_backend
from llmcli.text.vocab.sentencepiece.model_file import read_sentencepiece_model
from llmcli.text.vocab.tokenizer_config import flag


def model_file_backend(
    data: bytes, tokenizer_config: Mapping[str, object], *, source: str, vocabulary: TiktokenVocabulary = LLAMA3
) -> tuple[Backend, dict[str, str]]:
    """Build the tokenizer of the file at `source` with the contents `data`; also returns special tokens by role.

    Used of the parsed `tokenizer_config` are `add_bos_token`, `add_prefix_space`, and `legacy`, without which a leading
    space is added only at the beginning of a text, not after control tokens. `add_eos_token` is ignored: it is about
    training texts, not texts to continue. `vocabulary` says what a file in tiktoken's
    format leaves out.

    Raises:
        CheckpointError: the file is damaged.
        UnsupportedModelError: the kind of model is not supported.
    """
    if is_tiktoken_model(data):
        named = _listed_tokens(tokenizer_config)
        return tiktoken_backend(data, vocabulary, named=named, source=source), dict(vocabulary.roles)
    model = read_sentencepiece_model(data, source=source)
    prefix: SpacePrefix = "none"
    if flag(tokenizer_config, "add_prefix_space", model.add_dummy_prefix, source):
        prefix = "every" if flag(tokenizer_config, "legacy", True, source) else "first"
    backend = sentencepiece_backend(model, prefix=prefix)
    bos = model.roles.get("bos_token")
    if bos is not None and flag(tokenizer_config, "add_bos_token", True, source):
        # `$` and `:` in a token have a special meaning for the library, which refuses some tokens.
        with wrap_tokenizer_errors(f"{source} has a damaged tokenizer"):
            backend.post_processor = processors.TemplateProcessing(
                single=[bos, "$A"], special_tokens=[(bos, model.vocabulary.tokens.index(bos))]
            )
    return backend, model.roles


def _listed_tokens(tokenizer_config: Mapping[str, object]) -> dict[int, AddedToken]:
    """The valid added tokens by id; invalid ones are reported when the tokens are added."""
    listed = tokenizer_config.get("added_tokens_decoder")
    named = {}
    for key, entry in listed.items() if isinstance(listed, Mapping) else ():
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if isinstance(content, str) and content and isinstance(key, str) and key.isascii() and key.isdigit():
            special = entry.get("special") is not False
            named[int(key[:10])] = AddedToken(without_surrogates(content), special=special, normalized=False)
    return named
