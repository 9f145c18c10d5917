"""A linearized norm: equal to the norm at its point, and linear."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcli.inspection.core.linearized_norm import FrozenNorm
from llmcli.model.config import NormStyle
from llmcli.model.norm import Scale, make_norm

STYLES = {
    "rms": NormStyle(),
    "rms, rounded late": NormStyle(round_first=False),
    "rms, 1 + weight": NormStyle(plus_one=True),
    "layer": NormStyle(kind="layer", bias=True),
    "layer, no bias": NormStyle(kind="layer"),
    "layer, no weight": NormStyle(kind="layer", weight=False),
    "layer, 1 + weight": NormStyle(kind="layer", bias=True, plus_one=True),
}
NORMS: dict[str, nn.Module] = {name: make_norm(24, 1e-3, style) for name, style in STYLES.items()}
NORMS |= {"scale": Scale(0.3), "identity": nn.Identity()}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_frozen_norm_equals_the_norm_at_its_point_and_is_linear(norm: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.data.normal_(generator=generator)
    parts, direction = torch.randn(5, 24, generator=generator) + 0.5, torch.randn(24, generator=generator)
    with torch.inference_mode():
        frozen = FrozenNorm(norm, parts.sum(0))
        whole = frozen.apply(parts).sum(0) + (0.0 if frozen.bias is None else frozen.bias)
        torch.testing.assert_close(whole, norm(parts.sum(0)))
        torch.testing.assert_close(parts @ frozen.pull_back(direction), frozen.apply(parts) @ direction)


def test_other_modules_are_refused_as_norms() -> None:
    with pytest.raises(TypeError, match="Linear"):
        FrozenNorm(nn.Linear(2, 2), torch.ones(2))
