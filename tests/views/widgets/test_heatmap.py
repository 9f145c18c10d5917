from __future__ import annotations

import io
import math
from typing import TypeAlias

import pytest
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.style import Style

from llmcli.views.widgets.heatmap import HeatMap, scale_legend
from tests.support.terminal.drawing import Colors, lines

Values: TypeAlias = list[list[float | None]]


def cells(view: RenderableType, colors: str = "truecolor") -> list[list[tuple[str, Color | None, Color | None]]]:
    """Each line's characters with foreground and background."""
    console = Console(file=io.StringIO(), width=80, color_system=colors, force_terminal=True)  # type: ignore[arg-type]
    return [
        [
            (char, style.color, style.bgcolor)
            for segment in line
            for style in [segment.style or Style()]
            for char in segment.text
        ]
        for line in console.render_lines(view, pad=False)
    ]


def lightness(color: Color | None, system: ColorSystem = ColorSystem.TRUECOLOR) -> float:
    assert color is not None
    red, green, blue = color.downgrade(system).get_truecolor()
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


VALUES: Values = [[0.0, 0.3, 0.5], [0.7, 1.0, None], [-1.0, math.nan, 9.0]]


def test_shades_show_one_row_per_line() -> None:
    assert lines(HeatMap(VALUES, row_label=lambda row: f"b{row}", cell_width=2)) == [
        "   0 1 2 ",
        "b0   ░░▒▒",
        "b1 ▓▓██  ",
        "b2     ██",
    ]


@pytest.mark.parametrize("colors", [None, "standard"])
def test_few_colors_are_not_enough_for_a_ramp(colors: Colors | None) -> None:
    assert [line.rstrip() for line in lines(HeatMap([[0.0, 0.5, 1.0]]), colors=colors)][-1] == " ▒█"


def test_half_blocks_show_two_rows_per_line() -> None:
    _ruler, first, second = cells(HeatMap(VALUES, row_label=str))
    assert "".join(char for char, _, _ in first) == "0 ▀▀▀"
    assert "".join(char for char, _, _ in second) == "2 ▀ ▀"
    # Upper rows in the foreground, lower rows in the background; no background without a value or row.
    upper, lower = [fore for _, fore, _ in first[2:]], [back for _, _, back in first[2:]]
    light = [lightness(color) for color in (*upper, *lower[:2])]
    assert light == sorted(light) and len(set(light)) == 5
    assert lower[2] is None
    # Values outside of the scale are drawn at its ends.
    assert [second[2][1:], second[4][1:]] == [(upper[0], None), (lower[1], None)]


def test_a_missing_upper_value_gives_a_lower_half_block() -> None:
    line = cells(HeatMap([[None, None], [1.0, None]]))[1]
    assert [(char, back) for char, _, back in line] == [("▄", None), (" ", None)]


@pytest.mark.parametrize("colors", ["256", "truecolor"])
def test_larger_values_are_lighter_in_every_palette(colors: str) -> None:
    system = ColorSystem.EIGHT_BIT if colors == "256" else ColorSystem.TRUECOLOR
    values: Values = [[step / 40 for step in range(41)]]
    line = cells(HeatMap(values), colors)[1]
    light = [lightness(color, system) for _, color, _ in line]
    assert all(later >= earlier for earlier, later in zip(light, light[8:], strict=False))
    assert light[-1] - light[0] > 150


@pytest.mark.parametrize("colors", [None, "truecolor"])
@pytest.mark.parametrize("width", [5, 20, 40, 80])
@pytest.mark.parametrize("columns", [1, 3, 39, 40, 200, 1000])
def test_no_line_is_wider_than_the_console(columns: int, width: int, colors: str | None) -> None:
    values: Values = [[*[0.0] * (columns - 1), 1.0] for _ in range(3)]
    view = HeatMap(values, row_label=lambda row: f"a long label {row}", cell_width=2)
    console = Console(file=io.StringIO(), width=width, color_system=colors, force_terminal=colors is not None)  # type: ignore[arg-type]
    lines = ["".join(segment.text for segment in line) for line in console.render_lines(view, pad=False)]
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if any(char in "▀█" for char in line)]
    assert len(rows) == (3 if colors is None else 2)


def test_merged_columns_keep_their_maximum_and_say_so() -> None:
    first: list[float | None] = [0.0] * 50
    second = first.copy()
    first[17], second[49] = 1.0, 0.5
    values: Values = [first, second]
    assert lines(HeatMap(values, cell_width=2), width=40) == [
        "0    10   20   30   40   ",
        " " * 8 + "█" + " " * 16,
        " " * 24 + "▒",
        "each column is the maximum of 2",
    ]


def test_narrower_cells_come_before_merged_columns() -> None:
    values: Values = [[*[0.0] * 29, 1.0]]
    assert lines(HeatMap(values, cell_width=2), width=40) == ["0    5    10   15   20   25   ", " " * 29 + "█"]


def test_a_heat_map_reports_its_width() -> None:
    console, view = Console(width=80), HeatMap(VALUES, row_label=str, cell_width=2)
    assert Measurement.get(console, console.options, view).maximum == 8
    assert lines(HeatMap([])) == [] == lines(HeatMap([[]]))


def test_a_scale_with_equal_ends_is_drawn() -> None:
    assert lines(HeatMap([[3.0, 3.0]], low=3.0, high=3.0))[1] == "  "


def test_the_legend_matches_the_map() -> None:
    assert lines(scale_legend(0, 12.345, "bits")) == ["0     ░░░░▒▒▒▒▓▓▓▓████ 12.3 bits"]
    bar = cells(scale_legend(0, 1))[0][2:-2]
    values: Values = [[step / 19 for step in range(20)]]
    ramp = cells(HeatMap(values))[1]
    assert [color for _, _, color in bar] == [color for _, color, _ in ramp]
