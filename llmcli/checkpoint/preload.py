"""Read the parts of a GGUF file that need no torch, its header and tokenizer, while torch is being loaded.

The system loads torch's libraries without holding the interpreter lock, so both run at the same time.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.checkpoint.gguf.families import architecture_of
from llmcli.checkpoint.gguf.header import GGUFHeader, read_gguf
from llmcli.checkpoint.gguf.parser import parse_header
from llmcli.errors import LlmcliError

if TYPE_CHECKING:
    from llmcli.checkpoint.text_assets import TextParts


@dataclass(frozen=True)
class PreloadedGGUF:
    """The parts of a GGUF checkpoint that need no torch."""

    header: GGUFHeader
    """The header without the metadata that the tokenizer was built from."""
    text: Future[TextParts]
    """Already done; it may hold an error: the tokenizer is damaged or of an unsupported kind."""


def preload_gguf(path: Path) -> PreloadedGGUF | None:
    """Read the header and the text parts of a GGUF file; None if it is one shard of several.

    An error of the tokenizer is raised only when its result is read, so that a graver error of the file comes first.

    Raises:
        CheckpointError: the file cannot be read or is no GGUF file, or its header is broken.
        UnsupportedModelError: a version, byte order, architecture or tensor type that is not supported.
    """
    from llmcli.checkpoint.text_assets import gguf_text_parts

    parsed = parse_header(path)
    metadata = parsed.metadata
    if metadata.get("split.count", 1) not in (0, 1):
        return None
    header = read_gguf(path, parsed)
    # Raises for unsupported models before a tokenizer is built.
    architecture_of(header)
    text: Future[TextParts] = Future()
    try:
        embedding = header.tensors.get("token_embd.weight")
        text.set_result(gguf_text_parts(header, None if embedding is None else embedding.shape[0]))
    except LlmcliError as error:
        text.set_exception(error)
    # Vocabularies are most of a header, and only the tokenizer needs them.
    for key in [key for key in metadata if key.startswith("tokenizer.")]:
        del metadata[key]
    return PreloadedGGUF(header, text)
