"""Options for the form of results and the files they are written to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from llmcli.commands.shared.options.flags import OUTPUT, PROMPT, SAMPLING, SHOW, flag


@dataclass(frozen=True)
class ViewOptions:
    """The forms of a command's result: a view on the terminal, JSON, and files."""

    as_json: Annotated[bool, flag("--json", env=False, panel=OUTPUT, help="Print one JSON object.")] = False
    html: Annotated[
        Path | None, flag("--html", env=False, metavar="FILE", panel=OUTPUT, help="Also write an HTML page.")
    ] = None
    svg: Annotated[
        Path | None, flag("--svg", env=False, metavar="FILE", panel=OUTPUT, help="Also write an SVG picture.")
    ] = None
    show_page: Annotated[
        bool, flag("--open", env=False, panel=OUTPUT, help="Show the HTML page in the browser, also without --html.")
    ] = False

    @property
    def wants_page(self) -> bool:
        """Whether an HTML page is to be made."""
        return self.html is not None or self.show_page


@dataclass(frozen=True)
class InspectViewOptions(ViewOptions):
    """`ViewOptions` of an inspect command, and whether the manual's paragraph about the view comes first."""

    explain: Annotated[bool, flag("--explain", env=False, panel=OUTPUT, help="Explain the view above its figures.")] = (
        False
    )


@dataclass(frozen=True)
class TextOptions:
    """How an inspect command encodes its text: raw, or in a chat template."""

    chat: Annotated[
        bool,
        flag("--chat", env=False, panel=PROMPT, help="Write the text as a message in the chat template."),
    ] = False
    chat_template: Annotated[
        str | None,
        flag(
            "--chat-template",
            env=False,
            metavar="FILE|NAME",
            panel=PROMPT,
            help="With --chat: use another chat template, from a file or one of the model by name.",
        ),
    ] = None


@dataclass(frozen=True)
class ReplyOutputOptions(ViewOptions):
    """How `generate` writes its reply, and what else it writes."""

    as_json: Annotated[bool, flag("--json", panel=OUTPUT, help="Print the whole reply as one JSON object.")] = False
    as_jsonl: Annotated[bool, flag("--jsonl", panel=OUTPUT, help="Print every event as a line of JSON.")] = False
    samples: Annotated[
        int,
        flag(
            "--samples",
            env=False,
            min=1,
            metavar="N",
            panel=SAMPLING,
            help="Give N replies, with seeds from --seed on.",
            show_default=False,
        ),
    ] = 1
    record: Annotated[
        Path | None,
        flag(
            "--record",
            env=False,
            metavar="FILE",
            panel=OUTPUT,
            help="Write the run to a file for llm replay.",
        ),
    ] = None
    show_prompt: Annotated[
        bool, flag("--show-prompt", panel=SHOW, help="Write the exact tokens of the prompt to stderr.")
    ] = False
    no_newline: Annotated[
        bool,
        flag(
            "--no-newline",
            panel=OUTPUT,
            help="In a pipe or file: no newline after the reply.",
        ),
    ] = False
