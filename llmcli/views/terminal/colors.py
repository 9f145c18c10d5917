"""The colors of all views: blue is certain, amber is surprise, shades of blue are amounts.

All are RGB, since a theme may give the sixteen named colors any look. A background comes with its foreground. A
foreground without a background has a contrast of about 4.5 on white as on black. The backgrounds are colors of the
256-color palette, so that they look alike on terminals with fewer colors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.theme import Theme

# From certain to surprise, increasingly light: the order is visible without color too.
PROBABILITY_STYLES = (
    (0.9, "#ffffff on #0000af"),
    (0.5, "#ffffff on #005f87"),
    (0.2, "#ffffff on #5f5f87"),
    (0.05, "#000000 on #af875f"),
    (0.0, "#000000 on #ffaf00"),
)
"""(lower bound of a probability, style)."""
AMOUNT_STYLES = (
    (0.9, "#000000 on #afd7ff"),
    (0.5, "#000000 on #5fafff"),
    (0.2, "#ffffff on #005faf"),
    (0.05, "#ffffff on #000087"),
    (0.0, ""),
)
"""(lower bound of a share of the largest amount, style)."""
AMOUNT_RAMP = ((0, 0, 40), (0, 0, 135), (0, 95, 175), (95, 175, 255), (215, 235, 255))
"""The fills of a heat map from the lowest to the highest amount."""

BLUE, AMBER = "#5f5fff", "#b16100"
"""Certainty and surprise as text and bars without background."""
RED, GREEN, TEAL, PURPLE = "#e12d2d", "#00875f", "#008577", "#875fd7"
"""Errors; the user's messages and what is in order; names; structure of Markdown."""


def theme() -> Theme:
    """Rich's own styles, as far as they name colors, in colors that are legible on every background."""
    from rich.theme import Theme

    return Theme(
        {
            "bar.complete": BLUE,
            "bar.finished": GREEN,
            "bar.pulse": BLUE,
            "progress.elapsed": "none",
            "progress.percentage": "none",
            "progress.remaining": "none",
            "progress.spinner": BLUE,
            "markdown.code": f"bold {TEAL}",
            "markdown.code_block": TEAL,
            "markdown.block_quote": PURPLE,
            "markdown.list": TEAL,
            "markdown.item.number": TEAL,
            "markdown.h2": f"underline {PURPLE}",
            "markdown.h3": f"bold {PURPLE}",
            "markdown.h4": f"italic {PURPLE}",
            "markdown.link": BLUE,
            "markdown.link_url": f"underline {BLUE}",
            "markdown.table.border": TEAL,
            "markdown.table.header": f"not bold {TEAL}",
            "markdown.kbd": "bold",
        }
    )


def color_help() -> None:
    """Give Typer's help and usage errors colors that are legible on every background."""
    from typer import rich_utils

    styles = {
        "STYLE_OPTION": f"bold {TEAL}",
        "STYLE_SWITCH": f"bold {GREEN}",
        "STYLE_NEGATIVE_OPTION": f"bold {PURPLE}",
        "STYLE_NEGATIVE_SWITCH": f"bold {RED}",
        "STYLE_TYPES": f"bold {AMBER}",
        "STYLE_USAGE": AMBER,
        "STYLE_DEPRECATED": RED,
        "STYLE_OPTION_ENVVAR": f"dim {AMBER}",
        "STYLE_REQUIRED_SHORT": RED,
        "STYLE_REQUIRED_LONG": f"dim {RED}",
        "STYLE_COMMANDS_TABLE_FIRST_COLUMN": f"bold {TEAL}",
        "STYLE_ERRORS_PANEL_BORDER": RED,
        "STYLE_ABORTED": RED,
    }
    for name, style in styles.items():
        setattr(rich_utils, name, style)
    # The hint below a usage error names its color in markup.
    rich_utils.RICH_HELP = rich_utils.RICH_HELP.replace("[blue]", f"[{BLUE}]")
