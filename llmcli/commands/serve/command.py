"""`llm serve`: keep a model loaded, for this program's other commands and for clients of OpenAI's API."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli import __version__
from llmcli.commands.serve.options import LimitOptions, ListeningOptions, LogOptions
from llmcli.commands.shared.completion import MODELS
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import only, with_options, without
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import UsageError
from llmcli.extras import install_command
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.loaded_model import LoadedModel
    from llmcli.server.registry import Identity, ServerState

LISTENING, LIMITS = "Listening", "WorkLimits"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@with_options
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            envvar="LLMCLI_MODEL",
            show_envvar=False,
            autocompletion=MODELS,
            help="A folder, .gguf file, pulled model or hub name owner/name. Default: the starter.",
        ),
    ] = None,
    *,
    model_options: Annotated[ModelOptions, without("model", "readable", "server")],
    prompt_options: Annotated[PromptOptions, only("chat_template")],
    listening: ListeningOptions,
    limits: LimitOptions,
    logging: LogOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Keep a model loaded and answer requests, until Ctrl-C or a time without requests.

    The other commands of this user find it by themselves. With --port, so do all clients of OpenAI's API.
    """
    keep_s = seconds(limits.keep)
    if logging.log_bodies and logging.log_file is None:
        raise UsageError("--log-bodies is for a --log, and none is given.")
    model_options = replace(model_options, model=model)
    if listening.host not in ("127.0.0.1", "localhost", "::1") and not listening.api_key:
        raise UsageError(
            f"Other machines reach {listening.host}, so the server needs a key: give --api-key, or set LLMCLI_API_KEY."
        )
    checkpoint = find_checkpoint(model_options.model)
    try:
        from llmcli.server.http.security import check_origins
        from llmcli.server.run import RunningServer, ServeSettings
        from llmcli.server.run import serve as run
        from llmcli.server.scheduler.scheduler import WorkLimits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11"):
            raise
        raise UsageError(
            f"llm serve needs the packages starlette and uvicorn. This installs them: {install_command('serve')}"
        ) from None
    check_origins(listening.cors_origin or ())
    settings = ServeSettings(
        host=listening.host,
        port=listening.port,
        api_key=listening.api_key or None,
        origins=tuple(listening.cors_origin or ()),
        strict_model=listening.strict_model,
        metrics=logging.metrics,
        log=logging.log_file,
        log_bodies=logging.log_bodies,
        keep_s=keep_s,
        limits=WorkLimits(model_options.context, limits.parallel, limits.queue, limits.cache_mib << 20),
    )
    started = time.perf_counter()
    server = RunningServer(checkpoint.name, settings, os.environ, tell=terminal.error)

    def load() -> tuple[LoadedModel, Identity]:
        loaded = load_model(checkpoint, model_options, template=prompt_options.chat_template)
        return loaded, identity(checkpoint, model_options, prompt_options.chat_template)

    def told(state: ServerState) -> None:
        _tell(state, time.perf_counter() - started, limits.keep)

    run(server, checkpoint, load, told, model_options.threads)


def identity(checkpoint: Checkpoint, options: ModelOptions, template: str | None) -> Identity:
    """What decides the bits that a model loaded with `options` computes."""
    from llmcli.checkpoint.edits.store import find_edit
    from llmcli.server.registry import Identity, file_marks, model_files, template_mark

    return Identity(
        version=__version__,
        files=file_marks(model_files(checkpoint.path)),
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        edits=file_marks([find_edit(edit) for edit in options.edit or ()]),
        template=template_mark(template),
        context=options.context,
        kv_cache=options.kv_cache,
        ranks=options.ranks,
    )


def seconds(text: str) -> float | None:
    """The seconds of a time such as 90s, 15m or 2h; None for "forever".

    Raises:
        UsageError: it has another form.
    """
    if text == "forever":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--keep must be a time such as 90s, 15m or 2h, or forever, not {text!r}.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _tell(state: ServerState, took_s: float, keep: str) -> None:
    """Print where the server listens."""
    terminal.write_line(f"{state.model} is ready after {took_s:.1f} s: {state.path}.")
    terminal.write_line(f"Socket: {state.socket}")
    if state.port is not None:
        host = f"[{state.host}]" if ":" in (state.host or "") else state.host
        terminal.write_line(f"URL: http://{host}:{state.port}/v1")
    if keep != "forever":
        unit = "" if keep[-1].isalpha() else "s"
        terminal.note(f"It ends after {keep}{unit} without requests, or with Ctrl-C.")
