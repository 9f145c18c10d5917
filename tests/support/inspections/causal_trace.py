"""A causal trace of four tokens and three blocks, to be drawn."""

from __future__ import annotations

from llmcli.inspection.causal.causal_trace import CausalTrace
from llmcli.inspection.core.tokens import Token, TokenProb

TRACE = CausalTrace(
    tokens=tuple(Token(at, text, text.encode()) for at, text in enumerate(["In", " Rome", " </b>", " of"])),
    subject=(1,),
    answer=TokenProb(9, " Italy", b" Italy", 0.8),
    corrupted=0.05,
    samples=3,
    window=2,
    hidden=((0.05, 0.05, 0.05), (0.7, 0.3, 0.05), (0.2, 0.1, 0.05), (0.05, 0.75, 0.6)),
    feed_forward=((0.05, 0.05, 0.05), (0.6, 0.2, 0.05), (0.1, 0.15, 0.05), (0.05, 0.1, 0.05)),
    attention=((0.05, 0.05, 0.05), (0.1, 0.05, 0.05), (0.05, 0.05, 0.05), (0.3, 0.55, 0.05)),
)
