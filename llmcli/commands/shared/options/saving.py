"""Options for saved conversations: which one to continue, and whether to keep this one."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.commands.shared.completion import CONVERSATIONS
from llmcli.commands.shared.options.flags import SAVED, flag


@dataclass(frozen=True)
class SavingOptions:
    """Which saved conversation to continue, and whether to save this one."""

    continue_latest: Annotated[
        bool,
        flag(
            "--continue",
            "-c",
            env=False,
            panel=SAVED,
            help="Continue the last chat or logged run, or the last one with -m MODEL.",
        ),
    ] = False
    resume: Annotated[
        str | None,
        flag(
            "--resume",
            env=False,
            metavar="ID",
            panel=SAVED,
            autocompletion=CONVERSATIONS,
            help="Continue this one; llm chats list and llm log show them.",
        ),
    ] = None
    save: Annotated[bool, flag("--save/--no-save", panel=SAVED, help="Save the conversation.")] = True
    log: Annotated[
        bool,
        flag(
            "--log/--no-log",
            panel=SAVED,
            help="Keep prompt and reply, for llm log and -c; --no-log -c only reads. Default: off.",
            show_default=False,
        ),
    ] = False
