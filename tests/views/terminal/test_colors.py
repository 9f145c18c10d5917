"""Colors are legible: text on its background, and text without one on white and on black."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.color import Color, ColorSystem
from rich.style import Style

import llmcli
from llmcli.views.reply.markdown_blocks import _CODE_THEME
from llmcli.views.terminal import colors
from llmcli.views.widgets.heatmap import _color
from llmcli.views.widgets.token_table import BANDS

WHITE, BLACK = Color.parse("#ffffff"), Color.parse("#000000")
SYSTEMS = (ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT)
ALONE = ("BLUE", "AMBER", "RED", "GREEN", "TEAL", "PURPLE")
VIEWS = Path(llmcli.__file__).parent


def luminance(color: Color, system: ColorSystem) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    values = [value / 255 for value in color.downgrade(system).get_truecolor()]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color, system: ColorSystem) -> float:
    """Contrast ratio, 1 to 21 (WCAG 2.1)."""
    dark, light = sorted(luminance(color, system) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("scale", [colors.PROBABILITY_STYLES, colors.AMOUNT_STYLES, [band[::2] for band in BANDS]])
def test_text_on_a_background_has_contrast(scale: list[tuple[float, str]], system: ColorSystem) -> None:
    styles = [Style.parse(style) for _, style in scale if style]
    assert len(styles) >= 4
    for style in styles:
        assert style.color is not None and style.bgcolor is not None, "a background comes with its foreground"
        assert contrast(style.color, style.bgcolor, system) >= 4.5


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("background", [WHITE, BLACK])
def test_text_without_a_background_is_legible_on_every_theme(name: str, background: Color) -> None:
    color = Color.parse(getattr(colors, name))
    assert contrast(color, background, ColorSystem.TRUECOLOR) >= 4.5
    assert contrast(color, background, ColorSystem.EIGHT_BIT) >= 3.8


@pytest.mark.parametrize("system", SYSTEMS)
def test_probabilities_go_from_blue_to_amber_and_become_lighter(system: ColorSystem) -> None:
    fills = [Style.parse(style).bgcolor for _, style in colors.PROBABILITY_STYLES]
    known = [fill for fill in fills if fill is not None]
    light = [luminance(fill, system) for fill in known]
    assert light == sorted(light) and len(set(light)) == len(light)
    for fill in known[:2]:
        red, _, blue = fill.downgrade(system).get_truecolor()
        assert blue > red
    for fill in known[-2:]:
        red, green, blue = fill.downgrade(system).get_truecolor()
        assert red > green > blue


@pytest.mark.parametrize("system", SYSTEMS)
def test_amounts_are_shades_of_blue(system: ColorSystem) -> None:
    fills = [_color(step / 40).downgrade(system).get_truecolor() for step in range(41)]
    assert all(blue >= green >= red for red, green, blue in fills)
    light = [luminance(Color.from_rgb(*fill), system) for fill in fills]
    assert light == sorted(light)


def named_colors(text: str) -> Iterator[str]:
    """Colors named in style strings, whose look depends on the theme."""
    for literal in re.findall(r"\"([a-z# 0-9]+)\"", text):
        words = literal.split()
        if words and all(
            re.fullmatch(r"bold|dim|italic|underline|reverse|not|on|default|#?\w+", word) for word in words
        ):
            yield from (
                word
                for word in words
                if re.fullmatch(r"(bright_)?(black|red|green|yellow|blue|magenta|cyan|white)|gr[ae]y\d*", word)
            )


def test_no_view_names_a_color_of_the_theme() -> None:
    paths = [*(VIEWS / "views").rglob("*.py"), *(VIEWS / "commands").rglob("*.py")]
    assert len(paths) > 50
    for path in paths:
        assert list(named_colors(path.read_text(encoding="utf-8"))) == [], path


def test_markdown_and_code_have_no_other_colors() -> None:
    own = {Color.parse(getattr(colors, name)) for name in ALONE}
    styles = [style for name, style in colors.theme().styles.items() if name.startswith(("markdown.", "bar.comp"))]
    styles += _CODE_THEME.style_map.values()
    assert {style.color for style in styles if style.color is not None} <= own
    assert all(style.bgcolor is None for style in styles)
    assert any(style.color in own for style in styles)


def test_help_and_usage_errors_have_no_colors_of_the_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer import rich_utils

    before = {name: value for name, value in vars(rich_utils).items() if name.startswith(("STYLE_", "RICH_HELP"))}
    for name, value in before.items():
        # Restored after the test.
        monkeypatch.setattr(rich_utils, name, value)
    colors.color_help()
    styles = " ".join(str(getattr(rich_utils, name)) for name in before)
    assert colors.TEAL in styles and colors.BLUE in styles
    assert not re.search(r"\b(black|red|green|yellow|blue|magenta|cyan|white)\b", styles)
