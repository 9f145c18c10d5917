"""What the C kernel covers, from a model's configuration alone."""

from __future__ import annotations

from llmcli.model.config import ModelConfig


def unsupported(config: ModelConfig) -> str | None:
    """Why the kernel cannot compute a model of that kind, without a full stop; None: it can."""
    return "latent attention" if config.latent is not None else None
