"""What of a GGUF file can be had before torch is there: its header, and the tokenizer in it.

Both are made while the system loads torch's libraries, for which it needs no Python.
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
class GGUFAhead:
    """The parts of a checkpoint that need no torch."""

    header: GGUFHeader
    """The header, less what the tokenizer was made of."""
    text: Future[TextParts]
    """Done; its result may be that the tokenizer is damaged or of no supported kind."""


def read_gguf_ahead(path: Path) -> GGUFAhead | None:
    """Read the header of a GGUF file, and what its model needs besides weights; None if it is one part of several.

    A tokenizer that cannot be used is no error before it is asked for: the file may have a graver one.

    Raises:
        CheckpointError: the file cannot be read or is no GGUF file, or its header is broken.
        UnsupportedModelError: a version, byte order, architecture or type of tensor that we do not read.
    """
    from llmcli.checkpoint.text_assets import gguf_text_parts

    parsed = parse_header(path)
    metadata = parsed.metadata
    if metadata.get("split.count", 1) not in (0, 1):
        return None
    header = read_gguf(path, parsed)
    # No tokenizer need be made for a model that cannot be run.
    architecture_of(header)
    text: Future[TextParts] = Future()
    try:
        embedding = header.tensors.get("token_embd.weight")
        text.set_result(gguf_text_parts(header, None if embedding is None else embedding.shape[0]))
    except LlmcliError as error:
        text.set_exception(error)
    # Vocabularies are the greater part of a header, and have been put to their only use.
    for key in [key for key in metadata if key.startswith("tokenizer.")]:
        del metadata[key]
    return GGUFAhead(header, text)
