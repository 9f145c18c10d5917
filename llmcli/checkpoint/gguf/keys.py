"""Typed access to the metadata keys of a GGUF file's architecture."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from llmcli.checkpoint.families.config_keys import LARGEST, in_short
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.header import GGUFHeader
from llmcli.errors import CheckpointError, UnsupportedModelError

_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class ArchitectureKeys:
    """The metadata keys that begin with the architecture's name; methods take the rest of a key.

    A list of one value per layer counts as a single value if all are equal.
    """

    header: GGUFHeader
    architecture: str
    read_keys: set[str] = field(default_factory=set, compare=False, repr=False)
    """The keys that any method was called with; the rest of the metadata has not been read."""

    def has(self, key: str) -> bool:
        """Whether the file has this key."""
        self.read_keys.add(key)
        return f"{self.architecture}.{key}" in self.header.metadata

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = LARGEST) -> int:
        """A whole number from `minimum` to `maximum`.

        Raises:
            CheckpointError: the key is missing without a default, or its value is invalid.
            UnsupportedModelError: it differs from layer to layer.
        """
        self.read_keys.add(key)
        full = f"{self.architecture}.{key}"
        value = self.header.metadata.get(full)
        if isinstance(value, list) and value and type(value[0]) is int:
            if any(item != value[0] for item in value):
                raise UnsupportedModelError(
                    f"{self.header.path} has layers of different sizes ({full} is not the same for all), "
                    "which is not supported."
                )
            value = value[0]
        else:
            value = self.header.get_int(full, default)
        if not isinstance(value, int) or value < minimum:
            raise CheckpointError(
                f"{self.header.path} has {shown(full)} = {value}; a whole number from {minimum} is needed."
            )
        if value > maximum:
            raise CheckpointError(f"{self.header.path} has {shown(full)} = {value}, which is more than any model has.")
        return value

    def integers(self, key: str, default: int | None = None, *, minimum: int = 1) -> list[int]:
        """A whole number for each layer: a list, or one number for all.

        Raises:
            CheckpointError: as for `integer`, or the list is shorter than the number of layers.
        """
        layers, full = self.layers(), f"{self.architecture}.{key}"
        listed = self.header.metadata.get(full)
        if not isinstance(listed, list):
            return [self.integer(key, default, minimum=minimum)] * layers
        self.read_keys.add(key)
        numbers = [item for item in listed if type(item) is int and minimum <= item <= LARGEST]
        if len(listed) < layers or len(numbers) < len(listed):
            raise CheckpointError(
                f"{self.header.path} has {shown(full)} = {in_short(listed)}; one whole number from {minimum} for each "
                f"of {layers} layers is needed."
            )
        return numbers[:layers]

    def usual(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """The number that most layers have; see `integers`."""
        return Counter(self.integers(key, default, minimum=minimum)).most_common(1)[0][0]

    def usual_positive(self, key: str, default: int) -> int:
        """The number that most layers have of those that have none of 0; `default` if all have 0."""
        numbers = [number for number in self.integers(key, default, minimum=0) if number]
        return Counter(numbers).most_common(1)[0][0] if numbers else default

    def optional_integer(self, key: str, *, maximum: int = LARGEST) -> int | None:
        """Like `integer`, but None if the key is missing or 0."""
        return self.integer(key, 0, minimum=0, maximum=maximum) or None

    def count(self, key: str) -> int:
        """A whole number from 0, 0 if the key is missing; some files store it as a float."""
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, float) and value.is_integer() and 0 <= value <= LARGEST:
            self.read_keys.add(key)
            return int(value)
        return self.integer(key, 0, minimum=0)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; `CheckpointError` if missing without a default or invalid."""
        self.read_keys.add(key)
        return self.header.get_float(f"{self.architecture}.{key}", default)

    def numbers(self, key: str) -> list[float]:
        """A list of numbers, one for each layer, which may be infinite; empty if the key is missing.

        Raises:
            CheckpointError: anything else.
        """
        self.read_keys.add(key)
        full = f"{self.architecture}.{key}"
        listed = self.header.metadata.get(full, [])
        numbers = [item for item in listed if type(item) is float] if isinstance(listed, list) else []
        short = bool(listed) and len(numbers) < self.layers()
        if not isinstance(listed, list) or len(numbers) < len(listed) or short or any(map(math.isnan, numbers)):
            raise CheckpointError(
                f"{self.header.path} has {shown(full)} = {in_short(listed)}; one number for each of {self.layers()} "
                "layers is needed."
            )
        return numbers[: self.layers()]

    def flag(self, key: str, default: bool) -> bool:
        """A boolean; `CheckpointError` for any other type."""
        self.read_keys.add(key)
        return self.header.get_bool(f"{self.architecture}.{key}", default)

    def text(self, key: str, default: str) -> str:
        """A string; `CheckpointError` for any other type."""
        self.read_keys.add(key)
        return self.header.get_str(f"{self.architecture}.{key}", default)

    def layers(self) -> int:
        """The number of layers, without trailing layers for multi-token prediction.

        Raises:
            CheckpointError: there are none, or more than the file can hold.
        """
        total, further = self.integer("block_count"), self.mtp_layers()
        full = shown(f"{self.architecture}.block_count")
        if further >= total:
            raise CheckpointError(
                f"{self.header.path} has {full} = {total}, of which {further} (nextn_predict_layers) only predict "
                "further tokens; none would be left."
            )
        if total - further > min(_MOST_LAYERS, len(self.header.tensors)):
            raise CheckpointError(
                f"{self.header.path} has {full} = {total}: it asks for {total - further} layers, but holds only "
                f"{len(self.header.tensors)} tensors."
            )
        return total - further

    def mtp_layers(self) -> int:
        """The number of trailing layers for multi-token prediction (nextn), which are not needed."""
        further = self.integer("nextn_predict_layers", 0, minimum=0)
        if self.architecture == "deepseek4":
            # Files without these layers state their number nevertheless, and do not count them as blocks.
            first = self.integer("block_count") - further
            return further if f"blk.{first}.nextn.eh_proj.weight" in self.header.tensors else 0
        return further
