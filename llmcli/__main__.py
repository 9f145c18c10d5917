"""`python -m llmcli`, and the `llm` command: the same program, whatever else is called `llm` on this machine."""

import gc
import signal
import sys
from typing import NoReturn

from llmcli.library_output import silence_libraries


def run() -> NoReturn:
    """Run the program. Until it can say something about Ctrl-C itself, Ctrl-C ends it without a word."""
    handler = signal.getsignal(signal.SIGINT)
    # A shell that starts it in the background has it ignore Ctrl-C, and so it stays.
    guarded = handler is signal.default_int_handler
    if guarded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Before the first library is imported: with `PYTHONWARNINGS=error` its import could fail.
    silence_libraries()
    from llmcli.startup import preload_torch

    preload_torch.begin(sys.argv[1:])
    # Modules stay until the end: searching them for garbage while they are imported takes time and finds none.
    gc.disable()
    from llmcli import cli

    gc.freeze()
    gc.enable()

    if guarded:
        signal.signal(signal.SIGINT, handler)
    cli.run()


if __name__ == "__main__":
    run()
