"""Entry point of `python -m llmcli` and of the command `llm`."""

import gc
import os
import signal
import sys
from typing import NoReturn

from llmcli.library_output import silence_libraries


def run() -> NoReturn:
    """Run the program. While it starts, Ctrl-C ends it silently; later `cli` handles Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    # A shell makes programs that it starts in the background ignore Ctrl-C; keep that.
    guarded = handler is signal.default_int_handler
    if guarded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Before other imports: with `PYTHONWARNINGS=error` a warning in a library would fail its import.
    silence_libraries()
    from llmcli.startup import openmp, preload_torch

    openmp.set_wait_policy(os.environ)
    preload_torch.begin(sys.argv[1:])
    # No garbage collection during imports: modules stay until the end, so searching them costs time and frees nothing.
    gc.disable()
    from llmcli import cli

    gc.freeze()
    gc.enable()

    if guarded:
        signal.signal(signal.SIGINT, handler)
    cli.run()


if __name__ == "__main__":
    run()
