"""The time of a decode step of a split model, from bytes, operations and the latency of sums: what hardware allows.

A step reads the weights and the KV cache of its rank once, and waits for every sum over ranks:

    seconds = max(bytes / bandwidth, operations / rate) + collectives * latency + link bytes / link bandwidth

It is a lower limit: launches of kernels, sampling and Python come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmcli.model.config import ModelConfig
from llmcli.model.parallel.split import Rank, parts_of, rank_config
from llmcli.model.parameters import parameters_of, used_by_a_token

VALUE_BYTES = 2
"""Bytes of an activation, and of a value in the KV cache."""


@dataclass(frozen=True)
class Card:
    """What is assumed of a GPU; rates are per second, those of the makers' data sheets."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes of its memory."""
    operations: float
    """In bfloat16, without sparsity."""
    link: float
    """Bytes in each direction, to the other GPUs of its machine."""
    latency: float
    """Seconds of a sum over the GPUs of a machine, without the bytes."""


CARDS = (
    Card("RTX 4090, PCIe 4", 24 * 10**9, 1.008e12, 165e12, 25e9, 20e-6),
    Card("A100 40GB", 40 * 10**9, 1.555e12, 312e12, 300e9, 12e-6),
    Card("H100 SXM", 80 * 10**9, 3.35e12, 989e12, 450e9, 10e-6),
    Card("H200 SXM", 141 * 10**9, 4.8e12, 989e12, 450e9, 10e-6),
    Card("B200", 180 * 10**9, 8e12, 2250e12, 900e9, 10e-6),
)
"""The assumptions. Latencies are those of NCCL's small all-reduces, in round numbers."""
MACHINE = 8
"""GPUs of a machine; more ranks than these add over the network."""
NETWORK_LINK, NETWORK_LATENCY = 50e9, 30e-6
"""Between machines: 400 Gb/s for each GPU, and seconds of a sum."""


@dataclass(frozen=True)
class StepCost:
    """A decode step of one text on the busiest rank."""

    read_bytes: int
    """Of weights and KV cache."""
    operations: int
    collectives: int
    link_bytes: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Of one text."""
        return 1 / self.seconds


def assumed_card(memory: int) -> Card:
    """The card of `CARDS` whose memory is nearest to `memory` bytes."""
    return min(CARDS, key=lambda card: abs(card.memory - memory))


def step_cost(config: ModelConfig, count: int, card: Card, nbytes: Mapping[str, int], context: int) -> StepCost:
    """The cost of a step after `context` tokens on `count` ranks; `nbytes` are the bytes of rank 0's parameters.

    A ring moves 2 (n - 1) / n of a vector over each link for a sum, and (n - 1) / n of it to put parts together.
    """
    part = config if count == 1 else rank_config(config, Rank(0, count))
    read = operations = 0.0
    for name, parameter in parameters_of(part).items():
        if "embed_" in name and not (name == "embed_tokens.weight" and config.tie_embeddings):
            continue  # a step reads one row
        busiest = 1.0
        if ".mlp.experts." in name:
            experts = config.layers[int(name.split(".")[1])].experts
            assert experts is not None
            busiest = most_experts(experts.chosen, count) * count / experts.chosen
        read += busiest * used_by_a_token(part, name, nbytes[name])
        operations += busiest * 2 * used_by_a_token(part, name, parameter.values)
    read += part.kv_bytes(context, VALUE_BYTES)
    collectives = link_bytes = 0
    if count > 1:
        sums = sum(each.dimension == 1 for each in parts_of(config, Rank(0, count)).values())
        # One for the embedding, and one for each layer whose experts are on several ranks.
        sums += 1 + sum(layer.experts is not None for layer in config.layers)
        vectors = 2 * sums * config.hidden_size + config.vocab_size
        collectives, link_bytes = sums + 1, vectors * VALUE_BYTES * (count - 1) // count
    near = count <= MACHINE
    link, latency = (card.link, card.latency) if near else (min(card.link, NETWORK_LINK), NETWORK_LATENCY)
    seconds = max(read / card.bandwidth, operations / card.operations) + collectives * latency + link_bytes / link
    return StepCost(int(read), int(operations), collectives, link_bytes, seconds)


def most_experts(chosen: int, ranks: int) -> float:
    """How many of a token's `chosen` experts the busiest of `ranks` has, on average, if all choices are equally likely.

    From the multinomial distribution: the probability that no rank has more than m is chosen! / ranks^chosen times the
    coefficient of x^chosen in (sum of x^i / i! for i up to m)^ranks. Choices are counted with repetition.
    """
    expected = 0.0
    for most in range(chosen):
        series = [1.0] + [0.0] * chosen
        for _ in range(ranks):
            series = [
                sum(series[total - own] / math.factorial(own) for own in range(min(most, total) + 1))
                for total in range(chosen + 1)
            ]
        expected += 1 - series[chosen] * math.factorial(chosen) / ranks**chosen
    return expected
