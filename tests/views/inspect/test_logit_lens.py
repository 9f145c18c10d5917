from __future__ import annotations

import pytest
from rich.cells import cell_len

from llmcli.inspection.core.tokens import Token
from llmcli.inspection.residual.logit_lens import LensPosition
from llmcli.views.inspect.logit_lens import LensView
from tests.support.inspections.logit_lens import lens, position
from tests.support.terminal.drawing import drawn


def test_one_position_in_detail() -> None:
    assert drawn(LensView(lens(position(2)))) == (
        "after ␣is at 2\n"
        "block says                         rank KL bits then\n"
        "  emb ␣is           99.9% ████████ 4316  156.53 ␣was 0.1%\n"
        "    0 [/b]世界世界⏎ 30.0% ██▍         2    1.80 ␣Paris 20.0%\n"
        "    1 ␣Paris        75.0% ██████      1    0.00 ␣the 6.5%\n"
        "rank: of ␣Paris, which is the most probable from block 1 on"
    )
    assert drawn(LensView(lens(position(2))), 40) == (
        "after ␣is at 2\n"
        "block says                rank KL bits\n"
        "  emb ␣is           99.9% 4316  156.53\n"
        "    0 [/b]世界世界⏎ 30.0%    2    1.80\n"
        "    1 ␣Paris        75.0%    1    0.00\n"
        "rank: of ␣Paris, which is the most\n"
        "probable from block 1 on"
    )


def test_a_followed_token_that_is_not_the_answer_is_named() -> None:
    behind = LensPosition(2, Token(9, " Rome", b" Rome"), position(2).layers, None)
    assert drawn(LensView(lens(behind))).endswith("rank: of ␣Rome, which is not the most probable token at the end")


def test_several_positions_as_a_grid_with_shades() -> None:
    assert drawn(LensView(lens(position(0), position(1), position(2)))) == (
        "    # 0         1         2\n"
        "block The       ␣capital  ␣is\n"
        "  emb ␣is     █ ␣is     █ ␣is     █\n"
        "    0 [/b]世… ▒ [/b]世… ▒ [/b]世… ▒\n"
        "    1 ␣Paris  ▓ ␣Paris  ▓ ␣Paris  ▓\n"
        "leads 1         1         1\n"
        "probability: █ 90%+  ▓ 50%+  ▒ 20%+  ░ 5%+"
    )


def test_lens_columns_that_do_not_fit_go_to_the_next_page() -> None:
    page = drawn(LensView(lens(position(0), position(1), position(2))), 25).split("\n\n")
    assert [line.split()[1:] for line in (page[0].splitlines()[0], page[1].splitlines()[0])] == [["0", "1"], ["2"]]


def test_colors_take_the_place_of_shades() -> None:
    view = drawn(LensView(lens(position(0), position(1))), colors="truecolor")
    assert not set(view) & set("░▒▓█")
    assert "48;2;0;0;175m␣is      " in view


@pytest.mark.parametrize("layers", [1, 16, 17, 30, 80, 126])
@pytest.mark.parametrize("width", [20, 40, 60, 120])
def test_lens_grids_fit_the_width_and_show_the_embedding_and_the_last_block(layers: int, width: int) -> None:
    found = lens(*(position(at % 3, layers) for at in range(9)))
    lines = drawn(LensView(found), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    page = "\n".join(lines).split("\n\n")[0].splitlines()
    rows = [line.split()[0] for line in page if line.split()[0].isdigit() or line.split()[0] == "emb"]
    assert (rows[0], rows[-1]) == ("emb", str(layers - 1))
    assert len(rows) <= 18
