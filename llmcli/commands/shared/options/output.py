"""Where results are written, and in which form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from llmcli.commands.shared.options.flags import OUTPUT, PROMPT, SHOW, flag


@dataclass(frozen=True)
class ViewOptions:
    """How a command shows what it found: as a table or drawing, as JSON, and in files."""

    as_json: Annotated[bool, flag("--json", env=False, panel=OUTPUT, help="Print one JSON object.")] = False
    html: Annotated[
        Path | None, flag("--html", env=False, metavar="FILE", panel=OUTPUT, help="Also write an HTML page.")
    ] = None
    svg: Annotated[
        Path | None, flag("--svg", env=False, metavar="FILE", panel=OUTPUT, help="Also write an SVG picture.")
    ] = None


@dataclass(frozen=True)
class InspectViewOptions(ViewOptions):
    """How an inspecting command shows its view, and whether the manual's paragraph about it comes first."""

    explain: Annotated[
        bool, flag("--explain", env=False, panel=OUTPUT, help="Print what the view shows, above the figures.")
    ] = False


@dataclass(frozen=True)
class TextOptions:
    """How the text that a command looks at is given to the model."""

    chat: Annotated[
        bool,
        flag("--chat", env=False, panel=PROMPT, help="Write the text as a message in the chat template, not as it is."),
    ] = False
    chat_template: Annotated[
        str | None,
        flag(
            "--chat-template",
            env=False,
            metavar="FILE|NAME",
            panel=PROMPT,
            help="With --chat: use the chat template in this file, or the model's chat template of this name.",
        ),
    ] = None


@dataclass(frozen=True)
class ReplyOutputOptions(ViewOptions):
    """How `generate` writes its reply, and what it writes beside it."""

    as_json: Annotated[bool, flag("--json", panel=OUTPUT, help="Print the whole reply as one JSON object.")] = False
    as_jsonl: Annotated[
        bool, flag("--jsonl", panel=OUTPUT, help="Print every event as a line of JSON, as it happens.")
    ] = False
    record: Annotated[
        Path | None,
        flag(
            "--record",
            env=False,
            metavar="FILE",
            panel=OUTPUT,
            help="Write the run to a file that llm replay repeats: tokens, probabilities, seed, settings, hashes.",
        ),
    ] = None
    show_prompt: Annotated[
        bool, flag("--show-prompt", panel=SHOW, help="Write the exact tokens that the model is given to stderr.")
    ] = False
    no_newline: Annotated[
        bool,
        flag(
            "--no-newline",
            panel=OUTPUT,
            help="Into a pipe or file, write the bytes of the reply alone, without a newline after them.",
        ),
    ] = False
