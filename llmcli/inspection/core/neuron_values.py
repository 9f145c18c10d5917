"""Feed-forward networks neuron by neuron: activations, and the tokens that each neuron's output promotes.

A neuron writes its column of `down_proj` times its activation (Geva et al. 2022, arXiv:2203.14680, eq. 2). In a
mixture of experts the neurons are those of the chosen experts and of the shared expert, and their output is also
multiplied by the expert's weight.

Dimension letters: N tokens, C hidden size, I neurons of a network, V vocabulary of the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import UnsupportedModelError
from llmcli.inspection.core.hooks import blocks, scales
from llmcli.inspection.core.linearized_norm import FrozenNorm
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.loaded_model import LoadedModel
from llmcli.model.block import OutputNormBlock
from llmcli.model.experts_beside import ExpertsBesideDense
from llmcli.model.feed_forward import FeedForward, PlainFeedForward
from llmcli.model.mixture_of_experts import ExpertWeights, MixtureOfExperts
from llmcli.model.recurrent.rwkv4 import ChannelMixing

Expert: TypeAlias = int | Literal["shared"] | None
"""The expert that the neurons belong to: an index, "shared", or None in a dense block."""


@dataclass(frozen=True)
class Firing:
    """The neurons of one network at one position."""

    expert: Expert
    activations: Tensor
    """(I,), signed; float32."""
    down: Tensor
    """(C, I): what each neuron writes at an activation of 1, after the network's own norm with its actual scale."""
    weight: float
    """A factor on the output: the expert's weight, or 1."""


@dataclass(frozen=True)
class Promotion:
    """The tokens whose logits a vector in the residual stream raises and lowers most."""

    promotes: tuple[Token, ...]
    suppresses: tuple[Token, ...]


def firing(network: nn.Module, x: Tensor) -> list[Firing]:
    """The neurons of a feed-forward network, or of all its chosen experts, for the input `x` (C,).

    Raises:
        UnsupportedModelError: a table chooses the experts by the token, which `x` does not show.
    """
    if isinstance(network, FeedForward | PlainFeedForward):
        return [Firing(None, _fired(network, x[None])[0], _outputs(network, x), 1.0)]
    assert isinstance(network, MixtureOfExperts)
    rows = x[None].to(network.dtype)
    chosen, weights = _routed(network, rows)  # (1, k)
    found = []
    for expert, weight in zip(chosen[0].tolist(), weights[0].tolist(), strict=True):
        read, written = (weight, 1.0) if network.config.scales_input else (1.0, weight)
        activations = _expert_fired(network.experts, expert, network.experts_input(rows) * read)[0]
        found.append(Firing(expert, activations, _expert_outputs(network, expert), written))
    if network.shared_expert is not None:
        shared = network.shared_expert
        gate = network.shared_expert_gate
        weight = 1.0 if gate is None else float(torch.sigmoid(gate(rows)))
        found.append(Firing("shared", _fired(shared, network.shared_input(rows))[0], shared.down_proj.weight, weight))
    return _normed(network, found) if isinstance(network, ExpertsBesideDense) else found


def _normed(network: ExpertsBesideDense, found: list[Firing]) -> list[Firing]:
    """The same neurons behind the norms of the experts' sum and of the dense network."""
    normed = []
    for fired in found:
        shared = fired.expert == "shared"
        alike = [other for other in found if (other.expert == "shared") == shared]
        output = torch.stack([other.weight * (other.down.float() @ other.activations) for other in alike]).sum(0)
        norm = FrozenNorm(network.shared_output_norm if shared else network.experts_output_norm, output)
        normed.append(replace(fired, down=norm.apply(fired.down.float().T).T))
    return normed


def activations(network: nn.Module, x: Tensor, neuron: int, expert: Expert) -> list[float | None]:
    """The activation of one neuron for each of the inputs `x` (N, C); None where its expert is not chosen.

    Raises:
        UnsupportedModelError: a table chooses the experts by the token, which `x` does not show.
    """
    if isinstance(network, FeedForward | PlainFeedForward):
        return _listed(_fired(network, x)[:, neuron])
    assert isinstance(network, MixtureOfExperts)
    rows = x.to(network.dtype)
    if not isinstance(expert, int):
        assert network.shared_expert is not None
        return _listed(_fired(network.shared_expert, network.shared_input(rows))[:, neuron])
    chosen, weights = _routed(network, rows)  # (N, k)
    rows = network.experts_input(rows)
    if network.config.scales_input:
        rows = rows * (weights * (chosen == expert)).sum(1, keepdim=True).to(rows.dtype)
    fired = _listed(_expert_fired(network.experts, expert, rows)[:, neuron])
    return [value if sent else None for value, sent in zip(fired, (chosen == expert).any(1).tolist(), strict=True)]


def _routed(network: MixtureOfExperts, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen experts of the inputs `rows` (N, C) and their weights, (N, k)."""
    if network.config.by_token:
        raise UnsupportedModelError(
            "The neurons of this block cannot be shown: a table chooses its experts by the token itself."
        )
    chosen, weights = network.gate(rows)
    return chosen, weights


def width(network: nn.Module, expert: Expert) -> int | None:
    """Number of neurons of the network or of one of its experts; None if there is no such expert."""
    if isinstance(network, FeedForward | PlainFeedForward):
        return network.down_proj.in_features if expert is None else None
    assert isinstance(network, MixtureOfExperts)
    if expert == "shared":
        return None if network.shared_expert is None else network.shared_expert.down_proj.in_features
    if expert is None or not 0 <= expert < network.config.count:
        return None
    return network.config.intermediate_size


def written(network: nn.Module, neuron: int, expert: Expert) -> Tensor:
    """What a neuron writes at an activation of 1, (C,); behind a norm of the mixture, without that norm's scale."""
    if isinstance(network, ExpertsBesideDense):
        norm = network.experts_output_norm if isinstance(expert, int) else network.shared_output_norm
        return _through(norm, _written(network, neuron, expert).float())
    return _written(network, neuron, expert)


def _written(network: nn.Module, neuron: int, expert: Expert) -> Tensor:
    if isinstance(network, MixtureOfExperts):
        if isinstance(expert, int):
            return _expert_outputs(network, expert)[:, neuron]
        assert network.shared_expert is not None
        network = network.shared_expert
    assert isinstance(network, FeedForward | PlainFeedForward)
    return network.down_proj.weight[:, neuron]


@torch.inference_mode()
def promotion(loaded: LoadedModel, block: int, vector: Tensor, top: int) -> Promotion:
    """The `top` tokens that a `vector` (C,) promotes and suppresses when the block's feed-forward network writes it.

    Follows the direct path: the block's output norm if there is one, the final norm and the output head. A norm's
    scale is the same for all tokens, so it does not change the order.

    Raises:
        UnsupportedModelError: what the block writes reaches the head through other streams or another layer.
    """
    if loaded.config.head_layer is not None:
        raise UnsupportedModelError("A layer is in front of this model's output head, so a neuron promotes no tokens.")
    if loaded.config.streams > 1:
        raise UnsupportedModelError("This model has several residual streams, so a neuron promotes no tokens directly.")
    model, tokenizer, place = loaded.model, loaded.tokenizer, blocks(loaded.model)[block]
    # Only the sign matters for the order of tokens.
    vector = vector.float() * scales(model)[block]
    added = _through(place.mlp_output_norm, vector) if isinstance(place, OutputNormBlock) else vector
    direction = _through(model.norm, added).to(model.dtype)
    logits = F.linear(direction, model.lm_head.weight)[: tokenizer.vocab_size].float()  # (V,)
    some = min(top, len(logits))
    most, least = logits.topk(some).indices.tolist(), logits.topk(some, largest=False).indices.tolist()
    return Promotion(tokens(tokenizer, most), tokens(tokenizer, least))


def _through(norm: nn.Module, vector: Tensor) -> Tensor:
    return FrozenNorm(norm, vector).apply(vector)


def _fired(network: FeedForward | PlainFeedForward, rows: Tensor) -> Tensor:
    """(N, C) -> (N, I), float32."""
    return network.neurons(rows.to(network.down_proj.weight.dtype)).float()


def _outputs(network: FeedForward | PlainFeedForward, x: Tensor) -> Tensor:
    """What each neuron writes at an activation of 1, (C, I), if the network reads `x`: a gate on its output counts."""
    down = network.down_proj.weight
    return network.gate(x.to(down.dtype))[:, None] * down if isinstance(network, ChannelMixing) else down


def _expert_fired(experts: ExpertWeights, expert: int, rows: Tensor) -> Tensor:
    """(N, C) -> (N, I), float32."""
    bias = None if experts.gate_up_proj_bias is None else experts.gate_up_proj_bias[expert]
    return experts._combine(F.linear(rows, experts.inner[expert], bias)).float()


def _expert_outputs(network: MixtureOfExperts, expert: int) -> Tensor:
    """What each neuron of an expert writes at an activation of 1, (C, I)."""
    down = network.experts.down_proj[expert]
    return down if network.config.latent_size is None else F.linear(down.T, network.latent_out.weight).T


def _listed(values: Tensor) -> list[float | None]:
    listed: list[float | None] = values.tolist()
    return listed
