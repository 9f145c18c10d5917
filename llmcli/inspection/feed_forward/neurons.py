"""Neurons of the feed-forward networks: the largest contributions to a logit, and one neuron along a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspection.core.activations import passes, trace
from llmcli.inspection.core.hooks import blocks, on_feed_forward, parts_of
from llmcli.inspection.core.neuron_values import Expert, activations, promotion, width, written
from llmcli.inspection.core.tokens import Token, TokenProb, token, token_prob
from llmcli.inspection.residual.logit_attribution import Direction, NeuronLogit, strongest_neurons
from llmcli.inspection.residual.logit_lens import log_probabilities
from llmcli.loaded_model import LoadedModel
from llmcli.model.mixture_of_experts import MixtureOfExperts


@dataclass(frozen=True)
class Neurons:
    """The neurons that raise or lower the logit of `target` most, predicted after the token at `position`."""

    position: int
    token: Token
    target: TokenProb
    logit: float
    """Logit of the target, before a soft cap."""
    mean_logit: float
    neurons: tuple[NeuronLogit, ...]


@dataclass(frozen=True)
class NeuronActivation:
    """Activation of a neuron on one token."""

    position: int
    token: Token
    activation: float | None
    """Signed; None if its expert was not chosen."""


@dataclass(frozen=True)
class NeuronAlong:
    """One neuron along a text, and the tokens it promotes when it fires with the sign of its largest activation."""

    block: int
    neuron: int
    expert: Expert
    activations: tuple[NeuronActivation, ...]
    promotes: tuple[Token, ...]
    suppresses: tuple[Token, ...]


@torch.inference_mode()
def neurons(
    loaded: LoadedModel,
    ids: Sequence[int],
    position: int,
    *,
    target: int | None = None,
    count: int = 10,
    top: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Neurons:
    """The `count` neurons with the largest contributions to the logit of `target`, by default the most probable token.

    Each comes with the `top` tokens that it promotes and suppresses.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such position.
    """
    traced = trace(loaded.model, ids[: position + 1], [position], parts=True, progress=progress)
    logprobs = log_probabilities(loaded, traced.residuals[-1, 0])
    chosen = int(logprobs.argmax()) if target is None else target
    direction = Direction(loaded, traced, 0, chosen)
    return Neurons(
        position=position,
        token=token(loaded.tokenizer, ids[position]),
        target=token_prob(loaded.tokenizer, chosen, float(logprobs[chosen].exp())),
        logit=direction.logit,
        mean_logit=direction.mean_logit,
        neurons=strongest_neurons(loaded, direction, count, top=top),
    )


@torch.inference_mode()
def neuron_along(
    loaded: LoadedModel,
    ids: Sequence[int],
    block: int,
    neuron: int,
    *,
    expert: Expert = None,
    top: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> NeuronAlong:
    """The activation of one neuron on each token of a text, and the `top` tokens it promotes and suppresses.

    Raises:
        PromptTooLongError: the text is longer than the model's context.
        UsageError: there is no text, or no such block, expert or neuron.
    """
    _check(loaded, block, neuron, expert)
    network = blocks(loaded.model)[block].mlp
    fired: list[float | None] = []

    def see(index: int, x: Tensor) -> None:
        if index == block:
            fired.extend(activations(network, x[0], neuron, expert))

    with on_feed_forward(loaded.model, see):
        for _ in passes(loaded.model, ids, progress):
            pass
    strongest = max((value for value in fired if value is not None), key=abs, default=0.0)
    sign = -1 if strongest < 0 else 1
    promoted = promotion(loaded, block, sign * written(network, neuron, expert), top)
    return NeuronAlong(
        block,
        neuron,
        expert,
        tuple(
            NeuronActivation(position, token(loaded.tokenizer, token_id), value)
            for position, (token_id, value) in enumerate(zip(ids, fired, strict=True))
        ),
        promoted.promotes,
        promoted.suppresses,
    )


def _check(loaded: LoadedModel, block: int, neuron: int, expert: Expert) -> None:
    layers = loaded.config.num_layers
    if not 0 <= block < layers:
        raise UsageError(f"There is no block {block}: the model has {layers}, numbered from 0.")
    if "feed_forward" not in parts_of(loaded.config, block):
        raise UsageError(f"Block {block} has no feed-forward network, and so no neurons.")
    network = blocks(loaded.model)[block].mlp
    count = width(network, expert)
    if count is None and isinstance(network, MixtureOfExperts):
        kinds = f"one of its {network.config.count} experts"
        kinds += ' or "shared"' if network.shared_expert is not None else ""
        raise UsageError(f"Block {block} is a mixture of experts: name the neuron by {kinds}.")
    if count is None:
        raise UsageError(f"Block {block} has no experts: name the neuron by block and number only.")
    if not 0 <= neuron < count:
        raise UsageError(f"There is no neuron {neuron}: the network has {count}, numbered from 0.")
