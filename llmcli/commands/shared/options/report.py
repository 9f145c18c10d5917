"""Options for what is shown about a reply besides its text."""

from dataclasses import dataclass
from typing import Annotated, Literal

from llmcli.commands.shared.options.flags import SHOW, flag


@dataclass(frozen=True)
class ReportOptions:
    """What is shown about each token of a reply, and about the whole reply."""

    probs: Annotated[bool, flag("--probs", panel=SHOW, help="Color every token by its probability.")] = False
    top: Annotated[
        int,
        flag(
            "--top",
            metavar="N",
            min=0,
            panel=SHOW,
            help="List the N most probable tokens at each place.",
            show_default=False,
        ),
    ] = 0
    attention: Annotated[bool, flag("--attention", panel=SHOW, help="List what each token paid attention to.")] = False
    attention_by: Annotated[
        Literal["token", "word", "line", "message"],
        flag(
            "--attention-by",
            panel=SHOW,
            help="Sum attention by token, word, line or message.",
            metavar="UNIT",
            show_default=False,
        ),
    ] = "token"
    stats: Annotated[bool, flag("--stats", panel=SHOW, help="Write tokens, times, speed and memory to stderr.")] = False
