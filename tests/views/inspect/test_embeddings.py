from __future__ import annotations

from llmcli.inspection.residual.embeddings import EmbeddingNeighbors
from llmcli.views.inspect.embeddings import EmbeddingsView
from tests.support.inspections.embeddings import RESULT
from tests.support.terminal.drawing import drawn, drawn_in_color, without_color

WIDE = r"""
␣king - man (no token with a space before it)
  cosine          as stored               cosine          centered
1  0.716 █████▊   ␣queen                1  0.659 █████▎   ␣king            input
2  0.692 █████▌   ␣king        input    2  0.250 ██       \xf0\x9f
3  0.500 ████     ␛[2J                  3 -0.100          ␣a-very-long-to…
   0.440 ███▌     random pairs             0.001          random pairs
""".strip("\n")
NARROW = r"""
␣king - man (no token with a space
before it)
  cosine          as stored
1  0.716 █████▊   ␣queen
2  0.692 █████▌   ␣king        input
3  0.500 ████     ␛[2J
   0.440 ███▌     random pairs
  cosine          centered
1  0.659 █████▎   ␣king            input
2  0.250 ██       \xf0\x9f
3 -0.100          ␣a-very-long-to…
   0.001          random pairs
""".strip("\n")


def test_embedding_rankings_are_side_by_side_if_there_is_room() -> None:
    assert drawn(EmbeddingsView(RESULT), 80) == WIDE
    assert drawn(EmbeddingsView(RESULT), 40) == NARROW
    colored = drawn_in_color(EmbeddingsView(RESULT), 80)
    assert without_color(colored) == WIDE
    underlined = [colored.plain[span.start : span.end] for span in colored.spans if "underline" in str(span.style)]
    assert [text.strip() for text in underlined] == ["␣king", "␣king"]


def test_a_leading_minus_is_shown() -> None:
    result = EmbeddingNeighbors(RESULT.expression[1:], RESULT.raw, RESULT.centred, RESULT.random_pair)
    assert drawn(EmbeddingsView(result)).splitlines()[0].startswith("- man")
