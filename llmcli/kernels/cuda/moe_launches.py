"""The kernel launches of a mixture of experts."""

from __future__ import annotations

import torch
import triton
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cuda.launches import ROWS, Launches
from llmcli.kernels.cuda.support import SCORES
from llmcli.kernels.cuda.weights import DeviceNorm, floats, matrix
from llmcli.kernels.triton.moe import experts_in, experts_out, route
from llmcli.model import ExpertsConfig
from llmcli.model.mixture_of_experts import MixtureOfExperts


def add_experts(
    launches: Launches, mixture: MixtureOfExperts, x: Tensor, before: DeviceNorm, residual: Tensor, output: nn.Module,
    name: str,
) -> Tensor:  # fmt: skip
    """Launch router and experts with the input `before(x)`, `before` a norm, and add their output to `residual`.

    Returns the sum, in the buffer `name`; `output` is the norm or factor of the experts' output.

    Raises:
        NoKernelError: the kernels do not support the format of their weights.
    """
    config, experts, taken = mixture.config, mixture.experts, mixture.config.chosen
    hidden, size = launches.config.hidden_size, config.intermediate_size
    inner = matrix(experts.gate_up_proj)
    outer = matrix(experts.down_proj)
    if inner.bits and size % ROWS:
        raise NoKernelError(f"experts of {size} neurons do not fill whole blocks of {ROWS} rows")
    launches.note(inner)
    chosen, weights = _routed(launches, config, mixture, x, before)
    biases = experts.gate_up_proj_bias, experts.down_proj_bias
    fired = launches.new("fired by experts", size, launches.tokens * taken)
    tile = launches.tile(inner, rows=launches.tokens * taken * size, tokens=1)
    glu = config.glu
    launches.add(
        experts_in, (launches.tokens * taken, -(-size // tile.rows)), x, chosen, weights, inner.data,
        launches.none if biases[0] is None else floats(biases[0]), before.weight, before.bias, fired, before.eps,
        glu.alpha if glu else 0.0, glu.limit if glu else 0.0,
        size=hidden, inner=size, taken=taken, norm=before.kind, bits=inner.bits, group=inner.group,
        activation=launches.activation,
        clamped=glu is not None, has_bias=biases[0] is not None, scales_input=config.scales_input,
        blocks=size // tile.rows, stride=inner.stride, **tile.constants,
    )  # fmt: skip
    shared, gate = mixture.shared_expert, None
    if mixture.shared_expert_gate is not None:
        gate = launches.new("gate", 1)
        launches.linear([matrix(mixture.shared_expert_gate)], x, gate, before)
    seen = launches.neurons(shared, x, before) if shared is not None else None
    outer_tile = launches.tile(outer, rows=launches.tokens * hidden, tokens=1)

    def compute(y: Tensor, onto: Tensor | None, factor: float) -> None:
        between = launches.new("routed", hidden) if seen is not None else y
        launches.add(
            experts_out, (launches.tokens, -(-hidden // outer_tile.rows)), fired, chosen, weights, outer.data,
            launches.none if biases[1] is None else floats(biases[1]),
            launches.none if onto is None else onto, between, factor,
            size=size, n=hidden, taken=taken, bits=outer.bits, group=outer.group, has_bias=biases[1] is not None,
            scales_input=config.scales_input, has_residual=onto is not None, stride=outer.stride,
            **outer_tile.constants,
        )  # fmt: skip
        if shared is not None and seen is not None:
            launches.linear([matrix(shared.down_proj)], seen, y, residual=between, factor=factor, gate=gate)

    return launches.normed_onto(residual, output, name, compute)


def _routed(
    launches: Launches, config: ExpertsConfig, mixture: MixtureOfExperts, x: Tensor, before: DeviceNorm
) -> tuple[Tensor, Tensor]:
    """Launch the router; returns the chosen experts of each token, and their weights."""
    router = mixture.gate
    logits = launches.new("router", config.count)
    bias = None if config.float32_router else router.bias
    launches.linear([matrix(router.weight, bias=bias)], x, logits, before)
    # Not a shared buffer, as it holds integers; small enough for each layer to have one.
    chosen = torch.zeros(launches.tokens * config.chosen, dtype=torch.int32, device=launches.device)
    weights = launches.new("expert weights", launches.tokens * config.chosen, 1)
    selection = router.e_score_correction_bias
    launches.add(
        route, (launches.tokens,), logits, launches.none if selection is None else floats(selection), chosen, weights,
        config.scale,
        count=config.count, taken=config.chosen, score=SCORES.index(config.score), normalized=config.normalized,
        biased=selection is not None, block=triton.next_power_of_2(config.count),
        most_taken=triton.next_power_of_2(config.chosen),
    )  # fmt: skip
    return chosen, weights
