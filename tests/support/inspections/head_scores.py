"""Scores of attention heads, to be drawn."""

from __future__ import annotations

from llmcli.inspection.attention.head_scores import HeadAtlas, HeadScores


def score(layer: int, head: int, previous: float, induction: float | None, sink: float) -> HeadScores:
    return HeadScores(
        layer=layer,
        head=head,
        previous=previous,
        duplicate=None,
        induction=induction,
        sink=sink,
        previous_without_sink=min(previous / (1 - sink), 1.0),
        duplicate_without_sink=None,
        induction_without_sink=None if induction is None else induction / (1 - sink),
        learned_sink=None,
    )


HEADS = (score(0, 0, 0.9, None, 0.0), score(0, 1, 0.1, None, 0.5), score(1, 0, 0.0, 0.3, 0.625), score(1, 1, 0, 0, 0.1))
ATLAS = HeadAtlas(50, 4, True, 0, HEADS)
