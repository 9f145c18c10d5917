"""Neurons and what they write, to be drawn."""

from __future__ import annotations

from llmcli.inspection.core.tokens import Token, TokenProb
from llmcli.inspection.feed_forward.neurons import NeuronActivation, NeuronAlong, Neurons
from llmcli.inspection.residual.logit_attribution import NeuronLogit


def token(text: str) -> Token:
    return Token(len(text), text, text.encode())


def tokens(*texts: str) -> tuple[Token, ...]:
    return tuple(map(token, texts))


RANKED = Neurons(
    position=5,
    token=token(" is"),
    target=TokenProb(6, " Paris", b" Paris", 0.749),
    logit=15.41,
    mean_logit=-3.61,
    neurons=(
        NeuronLogit(29, 864, None, 8.3, -1.87, tokens("nery", "[/b]"), tokens(" French")),
        NeuronLogit(3, 7, 12, -22.4, 1.4, tokens(" capitals", "\x1b[2J"), tokens("ocaust")),
        NeuronLogit(3, 8, "shared", 0.04, 0.0, tokens("a"), tokens("b")),
    ),
)


def along(*activations: float | None) -> NeuronAlong:
    return NeuronAlong(
        block=24,
        neuron=1005,
        expert=None,
        activations=tuple(
            NeuronActivation(position, token(" " + "abcdefghij"[position] * 3), value)
            for position, value in enumerate(activations)
        ),
        promotes=tokens(" capitals", " saint"),
        suppresses=tokens("omia"),
    )
