"""Compare a mixture of experts with the formula, computed one token and one expert at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from llmcli.model import ClampedGLU, ExpertsConfig, LayerConfig, ModelConfig
from llmcli.model.mixture_of_experts import MixtureOfExperts, Router

MODEL = ModelConfig(
    vocab_size=10,
    hidden_size=12,
    intermediate_size=24,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    context_length=100,
    norm_eps=1e-5,
    layers=(LayerConfig(None),),
)
KINDS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "normalized": {"normalized": True, "scale": 1.7},
    "softmax of chosen, biases": {"score": "softmax_of_chosen", "router_bias": True, "bias": True},
    "sigmoid": {"score": "sigmoid", "float32_router": True},
    "clamped": {"glu": ClampedGLU(1.702, 0.5), "bias": True},
    "input": {"score": "sigmoid_of_chosen", "scales_input": True},
    "shared": {"shared_size": 7},
    "gated shared": {"shared_size": 7, "shared_gate": True},
}


def mixture(**knobs: Any) -> MixtureOfExperts:
    torch.manual_seed(0)
    experts = ExpertsConfig(count=6, chosen=2, intermediate_size=8, **knobs)
    model = MixtureOfExperts(MODEL, experts).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.5)
    return model


def one_expert(model: MixtureOfExperts, expert: int, x: torch.Tensor) -> torch.Tensor:
    experts, glu = model.experts, model.config.glu
    hidden = experts.gate_up_proj[expert] @ x
    if experts.gate_up_proj_bias is not None:
        hidden = hidden + experts.gate_up_proj_bias[expert]
    gate, up = hidden[:8], hidden[8:]
    if glu is None:
        middle = F.silu(gate) * up
    else:
        gate, up = gate.clamp(max=glu.limit), up.clamp(-glu.limit, glu.limit)
        middle = (up + 1) * gate / (1 + torch.exp(-glu.alpha * gate))
    out = experts.down_proj[expert] @ middle
    return out if experts.down_proj_bias is None else out + experts.down_proj_bias[expert]


def one_token(model: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    knobs = model.config
    logits = model.gate.weight @ x
    if model.gate.bias is not None:
        logits = logits + model.gate.bias
    best = sorted(range(6), key=lambda expert: -float(logits[expert]))[:2]
    if knobs.score == "softmax":
        weights = logits.exp()[best] / logits.exp().sum()
    elif knobs.score == "softmax_of_chosen":
        weights = logits[best].exp() / logits[best].exp().sum()
    else:
        weights = logits[best].sigmoid()
    if knobs.normalized:
        weights = weights / weights.sum()
    weights = weights * knobs.scale
    out = torch.zeros(12)
    for weight, expert in zip(weights, best, strict=True):
        out += one_expert(model, expert, weight * x) if knobs.scales_input else weight * one_expert(model, expert, x)
    if model.shared_expert is not None:
        shared = model.shared_expert(x)
        out += shared if model.shared_expert_gate is None else shared * model.shared_expert_gate(x).sigmoid()
    return out


@pytest.mark.parametrize("knobs", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 9), (2, 5)])
def test_the_mixture_is_the_weighted_sum(knobs: dict[str, Any], batch: int, tokens: int) -> None:
    model = mixture(**knobs)
    x = torch.randn(batch, tokens, 12)
    expected = torch.stack([one_token(model, token) for token in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("knobs", [{}, {"bias": True, "glu": ClampedGLU(1.702, 0.5)}])
def test_gathering_weights_gives_the_result_of_grouping_tokens(knobs: dict[str, Any]) -> None:
    experts = mixture(**knobs).experts
    rows, chosen = torch.randn(4, 12), torch.tensor([0, 3, 3, 5])
    torch.testing.assert_close(experts.each(rows, chosen), experts(rows, [1, 0, 0, 2, 0, 1]))


def test_one_token_reads_only_the_chosen_experts() -> None:
    model = mixture()
    x = torch.randn(1, 1, 12)
    chosen = set(model.gate(x[0])[0][0].tolist())
    for expert in set(range(6)) - chosen:
        model.experts.get_parameter("gate_up_proj")[expert] = torch.nan
        model.experts.get_parameter("down_proj")[expert] = torch.nan
    assert model(x).isfinite().all()


def test_experts_are_chosen_within_the_best_groups() -> None:
    knobs = ExpertsConfig(count=6, chosen=2, intermediate_size=1, score="sigmoid", groups=3, groups_chosen=1)
    scores = torch.tensor([0.9, 0.1, 0.6, 0.7, 0.5, 0.8])
    logits = torch.logit(scores)

    def chosen(experts: ExpertsConfig, bias: torch.Tensor | None = None) -> tuple[set[int], list[float]]:
        router = Router(1, experts, 1e-6).requires_grad_(False)
        router.weight.copy_(logits[:, None])
        if bias is not None:
            assert router.e_score_correction_bias is not None
            router.e_score_correction_bias.copy_(bias)
        indices, weights = router(torch.ones(1, 1))
        return set(indices[0].tolist()), sorted(weights[0].tolist())

    assert chosen(knobs)[0] == {0, 1}, "the group of the best expert"
    assert chosen(replace(knobs, group_score="best_two"))[0] == {2, 3}, "or of the best two"
    biased = replace(knobs, group_score="best_two", selection_bias=True)
    indices, weights = chosen(biased, torch.tensor([0, 0, 0, 0, 0.5, 0]))
    assert indices == {4, 5}
    assert weights == pytest.approx([0.5, 0.8]), "the bias changes which experts are chosen, not their weights"
