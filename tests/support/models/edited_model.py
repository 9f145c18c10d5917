"""A tiny random model, and a fact that can be edited into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcli.editing.edit_fact import Fact
from tests.support.models.tiny_checkpoints import tiny_checkpoint

FACT = Fact('See the tower "', "tower", "B", neighbours=("The bridge is in", "Water is"))
CORPUS = "Keys of many kinds of letters are counted here, one after the other, 0123456789. " * 8


def checkpoint(folder: Path, model_type: str = "llama", **overrides: Any) -> Path:
    """A folder with a tiny random model whose context is long enough for the fact."""
    return tiny_checkpoint(folder, model_type, **{"max_position_embeddings": 512, **overrides})
