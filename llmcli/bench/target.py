"""The model to measure: one in files, or one with random weights and a given shape."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from llmcli.api import with_kv_cache
from llmcli.bench.bytes_per_token import model_facts, shape_facts
from llmcli.bench.plan import Sizes, benchmark_text, is_enough
from llmcli.bench.results import ModelFacts
from llmcli.bench.shapes import RANDOM, shape_config
from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.model import ModelConfig


class BenchTarget(Protocol):
    """The facts about a model that a benchmark needs before it runs."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""

    @property
    def format(self) -> str:
        """The format of its files, or "random weights"."""

    @property
    def path(self) -> str:
        """The path of its files; empty if it has none."""

    @property
    def shape(self) -> str | None:
        """The name of its shape, if it has no files."""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The model's files."""

    def stored_dtype(self) -> torch.dtype:
        """The float type its weights are stored in."""

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Enough token ids for every pass."""

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """The model's sizes and bytes per token, with this type and packing on this device."""


class FileTarget:
    """A model in files, whose headers have been read."""

    shape = None

    def __init__(self, checkpoint: Checkpoint, kv_cache: str = "auto") -> None:
        """`kv_cache` is as for `load`.

        Raises:
            UsageError: there is no such KV cache.
        """
        self.config, self.format = with_kv_cache(checkpoint.config, kv_cache), checkpoint.format
        self._checkpoint = replace(checkpoint, config=self.config)
        self.path = str(checkpoint.path.absolute())

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All files of a folder, or all parts of a GGUF file."""
        checkpoint = self._checkpoint
        if checkpoint.path.is_dir():
            return tuple(sorted(path for path in checkpoint.path.iterdir() if path.is_file()))
        parts = {stored.path for stored in checkpoint.tensors.values() if isinstance(stored, TensorInfo)}
        return tuple(sorted(parts | {checkpoint.path}))

    def stored_dtype(self) -> torch.dtype:
        """See `BenchTarget`."""
        return self._checkpoint.stored_dtype()

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Token ids of a text, by the model's tokenizer."""
        tokenizer = self._checkpoint.read_text_parts().tokenizer
        sentences = 1
        while True:
            ids = tokenizer.encode(benchmark_text(sentences), add_special_tokens=False)
            if is_enough(ids, sizes):
                return tuple(ids[: sizes.longest + sizes.passes])
            sentences *= 2

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """See `BenchTarget`."""
        return model_facts(self._checkpoint, sizes, dtype=dtype, packing=packing, device=device)


class ShapeTarget:
    """A model with random weights, which each process generates."""

    format, path, weight_files = RANDOM, "", ()

    def __init__(self, shape: str, kv_cache: str = "auto") -> None:
        """`shape` is a key of `SHAPES`, `kv_cache` is as for `load`.

        Raises:
            UsageError: there is no shape of this name, or no such KV cache.
        """
        self.shape, self.config = shape, with_kv_cache(shape_config(shape), kv_cache)

    def stored_dtype(self) -> torch.dtype:
        """The type in which such models are published."""
        return torch.bfloat16

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Random token ids, the same each time."""
        numbers = random.Random(0)
        return tuple(numbers.randrange(self.config.vocab_size) for _ in range(sizes.longest + sizes.passes))

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """See `BenchTarget`."""
        return shape_facts(self.shape, self.config, sizes, dtype=dtype, packing=packing, device=device)
