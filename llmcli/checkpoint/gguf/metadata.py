"""Typed access to the metadata of a GGUF file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.parser import GGUFValue
from llmcli.errors import CheckpointError


@dataclass
class GGUFMetadata:
    """Metadata of a GGUF file; for a split file those of its first shard.

    Strings in arrays under `tokenizer.ggml.` keep bytes that are not UTF-8 as surrogate escapes
    (`text.encode("utf-8", "surrogateescape")` restores them). In other strings such bytes become U+FFFD.

    The `get_` methods raise `CheckpointError` for a value of another type, and for a missing key without a default.
    """

    path: Path
    """The path of the first shard."""
    metadata: dict[str, GGUFValue]

    def get_int(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number")
        return value

    def get_float(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, "a finite number")
        return float(value)

    def get_str(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def get_bool(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def _get(self, key: str, default: object) -> object:
        if key in self.metadata:
            return self.metadata[key]
        if default is None:
            raise CheckpointError(f"{self.path} lacks the metadata key {shown(key)}, which is needed.")
        return default

    def _wrong(self, key: str, wanted: str) -> CheckpointError:
        value = shown(str(self.metadata.get(key)))
        return CheckpointError(f"{self.path}: metadata key {shown(key)} must be {wanted}, but is {value}.")
