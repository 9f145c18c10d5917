"""Readings of the logit lens, to be drawn."""

from __future__ import annotations

from llmcli.inspection.core.tokens import Token, TokenProb
from llmcli.inspection.residual.logit_lens import Lens, LensLayer, LensPosition


def prob(text: str, share: float) -> TokenProb:
    return TokenProb(len(text), text, text.encode(), share)


def position(at: int, layers: int = 2) -> LensPosition:
    told = [
        LensLayer(0, (prob(" is", 0.999), prob(" was", 0.0005)), 4316, 108.5),
        *(LensLayer(layer, (prob("[/b]世界世界\n", 0.3), prob(" Paris", 0.2)), 2, 1.25) for layer in range(1, layers)),
        LensLayer(layers, (prob(" Paris", 0.75), prob(" the", 0.065)), 1, 0.0),
    ]
    return LensPosition(at, Token(6, " Paris", b" Paris"), tuple(told), layers)


def lens(*positions: LensPosition) -> Lens:
    return Lens(
        tuple(Token(id_, text, text.encode()) for id_, text in enumerate(("The", " capital", " is"))), positions
    )
