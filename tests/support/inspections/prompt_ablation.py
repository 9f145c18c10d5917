"""Answers without a part of the prompt, to be drawn."""

from __future__ import annotations

from llmcli.inspection.causal.prompt_ablation import AnswerToken, Instead, Removal, Total, Without, Word, WordScan
from llmcli.inspection.core.tokens import Token, TokenProb

PARIS = AnswerToken(1, " Paris", b" Paris", 0.75, 0.25, 0.0001)
STOP = AnswerToken(2, "\x1b[2J", b"\x1b[2J", 0.5, 0.5, 0.25)
INSTEAD = Instead(
    TokenProb(1, " Paris", b" Paris", 0.75), TokenProb(3, " the", b" the", 0.5), TokenProb(4, "\n", b"\n", 0.125)
)
RESULT = Without(Removal((3, 4, 7), " France\x1b", False), (PARIS, STOP), Total(-1.0, -2.0, -10.5), INSTEAD)
SCAN = WordScan(
    (Token(1, " Par", b" Par"), Token(2, "is", b"is")),
    -0.25,
    (Word(" France", (3, 4), -4.0, False), Word("\n", (5,), -1.0, False), Word(" is", (6,), 0.5, True)),
)
