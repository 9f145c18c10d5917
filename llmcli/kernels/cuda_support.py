"""What the Triton kernels cover, and whether they can run here: asked before Triton is imported."""

from __future__ import annotations

from llmcli.model import ModelConfig


def unsupported(config: ModelConfig) -> str | None:
    """Why the kernels cannot compute a model of that kind, without a full stop; None: they can."""
    if config.latent is not None:
        return "latent attention"
    for layer in config.layers:
        if layer.experts is not None and layer.experts.groups_chosen != layer.experts.groups:
            return "experts chosen in groups"
    return None
