"""Recall at each depth of a text, to be drawn."""

from __future__ import annotations

from llmcli.inspection.evaluation.needle import INTERVAL, DepthScore, NeedleResult

RESULT = NeedleResult(
    facts=20,
    seeds=30,
    tokens=181.4,
    chat=False,
    chance=0.05,
    interval=INTERVAL,
    example="What is the secret word of Bob? The secret word of Bob is",
    answer="tiger",
    depths=(
        DepthScore(0, 0.9, 0.82, 0.96, 0.9, (0.9, 0.9)),
        DepthScore(12.5, 0.1, 0.05, 0.25, 0.1, (0.1, 0.1)),
        DepthScore(100, 1.0, 1.0, 1.0, 1.0, (1.0, 1.0)),
    ),
    path="cpu kernel",
)
