"""What is measured: a model in files, or one of random weights that has only a shape."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Protocol

import torch

from llmcli.bench.bytes_per_token import model_facts, shape_facts
from llmcli.bench.plan import Sizes, benchmark_text, enough
from llmcli.bench.results import ModelFacts
from llmcli.bench.shapes import RANDOM, shape_config
from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.model import ModelConfig


class BenchTarget(Protocol):
    """What must be known of a model before anything is measured."""

    @property
    def config(self) -> ModelConfig:
        """Its sizes."""

    @property
    def format(self) -> str:
        """What its files are, or "random weights"."""

    @property
    def path(self) -> str:
        """Where they are; empty if there are none."""

    @property
    def shape(self) -> str | None:
        """The name of its shape, if it has no files."""

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold it."""

    def stored_dtype(self) -> torch.dtype:
        """The float type its weights are stored in."""

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Enough tokens for every pass."""

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """What there is to say of it, run like that and there."""


class InFiles:
    """A model whose headers have been read."""

    shape = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.config, self.format = checkpoint.config, checkpoint.format
        self.path = str(checkpoint.path.absolute())

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All of a folder, all parts of a GGUF."""
        checkpoint = self._checkpoint
        if checkpoint.path.is_dir():
            return tuple(sorted(path for path in checkpoint.path.iterdir() if path.is_file()))
        parts = {stored.path for stored in checkpoint.tensors.values() if isinstance(stored, TensorInfo)}
        return tuple(sorted(parts | {checkpoint.path}))

    def stored_dtype(self) -> torch.dtype:
        """See `BenchTarget`."""
        return self._checkpoint.stored_dtype()

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Of a text, in this model's tokens."""
        tokenizer = self._checkpoint.read_text_parts().tokenizer
        sentences = 1
        while True:
            ids = tokenizer.encode(benchmark_text(sentences), add_special_tokens=False)
            if enough(ids, sizes):
                return tuple(ids[: sizes.longest + sizes.passes])
            sentences *= 2

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """See `BenchTarget`."""
        return model_facts(self._checkpoint, sizes, dtype=dtype, packing=packing, device=device)


class OfShape:
    """A model of random weights, which each process makes for itself."""

    format, path, weight_files = RANDOM, "", ()

    def __init__(self, shape: str) -> None:
        """`UsageError` if there is no shape of that name."""
        self.shape, self.config = shape, shape_config(shape)

    def stored_dtype(self) -> torch.dtype:
        """The type such models are published in."""
        return torch.bfloat16

    def ids(self, sizes: Sizes) -> tuple[int, ...]:
        """Any of the vocabulary, the same each time."""
        numbers = random.Random(0)
        return tuple(numbers.randrange(self.config.vocab_size) for _ in range(sizes.longest + sizes.passes))

    def facts(self, sizes: Sizes, dtype: torch.dtype, packing: Packing | None, device: torch.device) -> ModelFacts:
        """See `BenchTarget`."""
        return shape_facts(self.shape, self.config, sizes, dtype=dtype, packing=packing, device=device)
