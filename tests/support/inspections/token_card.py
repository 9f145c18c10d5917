"""The card of one token, to be drawn."""

from __future__ import annotations

from llmcli.engine.events import AttentionRow, Read
from llmcli.inspection.core.tokens import Token, TokenProb
from llmcli.inspection.residual.logit_attribution import Attribution, BlockLogit, HeadLogit, LookedAt, NeuronLogit
from llmcli.inspection.residual.logit_lens import LensLayer, LensPosition
from llmcli.inspection.token_card import CardToken, ComponentAblation, HeadName, NeuronName, TokenCard, Verification

PARIS = Token(6, " Paris", b" Paris")
TOP = (TokenProb(6, " Paris", b" Paris", 0.75), TokenProb(7, " [/b]", b" [/b]", 0.0001))
LAYERS = tuple(
    LensLayer(layer, (TokenProb(number, text, text.encode(), 0.4),), rank, 20.0 - layer)
    for layer, (number, text, rank) in enumerate([(1, " is", 99), (2, ",", 50), (2, ",", 40), (6, " Paris", 1)])
)
CARD = TokenCard(
    token=CardToken(6, 6, " Paris", b" Paris", 0.75, 1, stands=True),
    entropy=1.834,
    candidates=TOP,
    before=Token(1, " is", b" is"),
    read=AttentionRow(5, 0.6, 0.11, (Read(4, " France", 0.32), Read(3, " of", 0.24))),
    lens=LensPosition(5, PARIS, LAYERS, 3),
    attribution=Attribution(
        token=PARIS,
        logit=7.4,
        mean_logit=-3.6,
        embedding=0.1,
        bias=0.0,
        rounding=1e-6,
        softcap=None,
        blocks=(BlockLogit(0, 0.0, 0.5), BlockLogit(1, 6.0, -1.5), BlockLogit(2, 3.0, 2.9)),
        heads=(
            HeadLogit(1, 4, 2.48, LookedAt(4, 5, " France", b" France", 0.88)),
            HeadLogit(2, 0, -1.97, None),
        ),
        neurons=(NeuronLogit(1, 1005, None, -22.41, 1.4, (Token(8, " capitals", b" capitals"),), ()),),
    ),
    verify=None,
)
VERIFY = Verification(
    before=0.75,
    ablations=(
        ComponentAblation((HeadName(1, 4),), (), control=False, after=0.395),
        ComponentAblation((HeadName(0, 2),), (), control=True, after=0.75),
        ComponentAblation((), (NeuronName(1, 1005),), control=False, after=0.0),
        ComponentAblation((HeadName(1, 4), HeadName(2, 0)), (NeuronName(1, 1005),), control=False, after=0.1),
        ComponentAblation((HeadName(0, 2), HeadName(0, 3)), (NeuronName(0, 7),), control=True, after=0.8),
    ),
    seed=0,
)
