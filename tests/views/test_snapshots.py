"""Every view as a terminal gets it: at 60, 80 and 120 columns, in colors, with NO_COLOR, and in a pipe.

`UPDATE_SNAPSHOTS=1` writes the files anew; look at the difference before committing it.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from llmcli.engine import AttentionRow, Read, SampledCandidate, Step
from llmcli.inspection.attention.pattern import Pattern
from llmcli.inspection.attention.summary import AttentionSummary, BlockReading
from llmcli.inspection.core.tokens import Token
from llmcli.inspection.evaluation.cost import model_cost
from llmcli.inspection.evaluation.text_score import TextScore, TokenScore
from llmcli.inspection.feed_forward.moe_routing import ExpertRouting
from llmcli.views.inspect.attention import attention_view, pattern_view, read_table
from llmcli.views.inspect.cost import CostView
from llmcli.views.inspect.embeddings import EmbeddingsView
from llmcli.views.inspect.head_scores import heads_view
from llmcli.views.inspect.logit_lens import LensView
from llmcli.views.inspect.moe_routing import ExpertsView
from llmcli.views.inspect.needle import NeedleView
from llmcli.views.inspect.neurons import NeuronAlongView, NeuronsView
from llmcli.views.inspect.perplexity import ScoreView
from llmcli.views.inspect.prompt_ablation import without_view, words_view
from llmcli.views.inspect.token_card import CardView
from llmcli.views.inspect.tokenization import tokenization_view
from llmcli.views.reports.bench import BenchView
from llmcli.views.terminal import terminal
from llmcli.views.widgets.token_table import legend, reply_summary, token_table
from tests.support.inspections import bench, embeddings, needle, neurons, tokenization
from tests.support.inspections import head_scores as heads
from tests.support.inspections import logit_lens as lens
from tests.support.inspections import moe_routing as experts
from tests.support.inspections import prompt_ablation as without
from tests.support.inspections import token_card as card
from tests.support.models.published_sizes import MIXTRAL_8X7B

# Dim text on a background has less contrast than its colors.
DIM_ON_COLOR = re.compile(r"\x1b\[2;[\d;]*48;")
SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTHS = (60, 80, 120)

TOKENS = tuple(
    Token(number, data.decode(errors="replace"), data)
    for number, data in enumerate((b"The", b" capital", b" of", b" \xf0\x9f", b"\x98\x80\n", b"\x1b[2J"))
)
ROWS = (
    AttentionRow(0, 1.0, 0.0, ()),
    AttentionRow(3, 0.48, 0.07, (Read(1, " capital", 0.71), Read(2, " of", 0.29))),
    AttentionRow(
        5, 0.39, 0.12, (Read(4, "a line that is a good deal longer than what is shown\n", 0.6), Read(1, "", 0.004))
    ),
)
BLOCKS = tuple(BlockReading(block, replace(ROWS[1], sink=0.1 * block)) for block in range(3))
PATTERN = Pattern(
    TOKENS,
    18,
    6,
    tuple(range(6)),
    tuple(tuple(1 / (row + 1) if key <= row else 0.0 for key in range(6)) for row in range(6)),
)
LONG = Pattern(
    tuple(Token(number, f" t{number}", f" t{number}".encode()) for number in range(70)),
    0,
    1,
    (1, 69),
    ((0.75, 0.25, *[0.0] * 68), tuple((key + 1) / 2485 for key in range(70))),
)
STEPS = [
    Step(
        number,
        token.id,
        token.text,
        logprob,
        1.5,
        2,
        0.5,
        (
            SampledCandidate(1, " capital", logprob, 0.5, None),
            SampledCandidate(4, "", -3.0, 0.0, "top_p"),
            SampledCandidate(5, "", -9.0, 0.0, "top_k"),
        ),
        ROWS[1],
    )
    for number, (token, logprob) in enumerate(zip(TOKENS, (-0.01, -0.3, -1.0, -2.0, -5.0, -12.0), strict=True))
]
SCORE = TextScore(
    tuple(
        TokenScore(number, token.id, token.text, logprob, 3, 1.5)
        for number, (token, logprob) in enumerate(zip(TOKENS, (None, -0.3, -1.0, -2.0, -5.0, -12.0), strict=True))
    ),
    57.97,
    1.234,
    2,
    "cpu kernel",
)


def token_bytes(token: int) -> bytes:
    return TOKENS[token].bytes


VIEWS: dict[str, Callable[[], RenderableType]] = {
    "attention": lambda: attention_view(AttentionSummary(TOKENS, ROWS, ())),
    "attention-blocks": lambda: attention_view(AttentionSummary(TOKENS, ROWS[1:2], BLOCKS)),
    "attention-pattern": lambda: pattern_view(PATTERN),
    "attention-pattern-long": lambda: pattern_view(LONG),
    "attention-reply": lambda: read_table([(step.index, token_bytes(step.id), ROWS[1]) for step in STEPS]),
    "bench": lambda: BenchView(bench.RESULT),
    "card": lambda: CardView(replace(card.CARD, verify=card.VERIFY)),
    "cost": lambda: CostView(model_cost("Mixtral", MIXTRAL_8X7B, context=40_000)),
    "embeddings": lambda: EmbeddingsView(embeddings.RESULT),
    "experts": lambda: ExpertsView(ExpertRouting(experts.TOKENS, (experts.FIRST, experts.SECOND), (0, 3))),
    "experts-block": lambda: ExpertsView(ExpertRouting(experts.TOKENS, (experts.SECOND,), (0, 3))),
    "heads": lambda: heads_view(heads.ATLAS),
    "legend": legend,
    "lens": lambda: LensView(lens.lens(lens.position(2))),
    "lens-grid": lambda: LensView(lens.lens(*(lens.position(at, layers=7) for at in range(3)))),
    "needle": lambda: NeedleView(needle.RESULT),
    "neuron": lambda: NeuronAlongView(neurons.along(0.1, -20.0, None, 5.0, 11.0)),
    "neurons": lambda: NeuronsView(neurons.RANKED),
    "reply": lambda: reply_summary(STEPS),
    "reply-tokens": lambda: token_table(STEPS, 3, token_bytes),
    "score": lambda: ScoreView(SCORE, 0, token_bytes),
    "tokens": lambda: tokenization_view(tokenization.RESULT),
    "without": lambda: without_view(without.RESULT),
    "without-words": lambda: words_view(without.SCAN),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(view: RenderableType, stream: io.StringIO, width: int, **environment: str) -> str:
    """The output of the program's console on `stream`."""
    names = ("NO_COLOR", "COLORTERM", "TERM", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    with (
        mock.patch.object(sys, "stdout", stream),
        mock.patch.dict(os.environ, {**kept, "COLUMNS": str(width), **environment}, clear=True),
    ):
        terminal.console_out().print(view)
    return stream.getvalue()


@pytest.mark.parametrize("name", VIEWS)
def test_views_equal_their_snapshots(name: str) -> None:
    parts = []
    for width in WIDTHS:
        view = VIEWS[name]()
        colored = shown(view, Terminal(), width, TERM="xterm-256color", COLORTERM="truecolor")
        plain = shown(view, Terminal(), width, TERM="xterm-256color", COLORTERM="truecolor", NO_COLOR="1")
        piped = shown(view, io.StringIO(), width)
        assert plain == piped
        assert not DIM_ON_COLOR.search(colored)
        for text in (piped, Text.from_ansi(colored).plain):
            assert all(cell_len(line) <= width for line in text.splitlines())
            assert all(char.isprintable() or char == "\n" for char in text)
        parts += [f"== {width} columns, plain\n{piped}", f"== {width} columns, colours\n{colored}"]
    snapshot = SNAPSHOTS / f"{name}.txt"
    found = "".join(parts)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(found, encoding="utf-8")
    assert found == snapshot.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VIEWS)
def test_views_fit_forty_columns(name: str) -> None:
    text = shown(VIEWS[name](), io.StringIO(), 40)
    assert text.strip()
    assert all(cell_len(line) <= 40 for line in text.splitlines())


def test_every_view_has_one_snapshot() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(VIEWS)
