"""`llm serve`: keep a model loaded, for this program's other commands and for clients of OpenAI's API."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli import __version__
from llmcli.commands.shared.completion import MODELS
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import flag, only, with_options, without
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
    port: Annotated[
        int | None,
        flag("--port", metavar="N", min=0, max=65535, panel=LISTENING, help="Also listen on this TCP port; 0: any."),
    ] = None,
    host: Annotated[
        str,
        flag("--host", metavar="NAME", panel=LISTENING, help="Listen on another address; needs --api-key."),
    ] = "127.0.0.1",
    api_key: Annotated[
        str | None,
        flag("--api-key", metavar="KEY", panel=LISTENING, help="Answer only requests with this key."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        flag("--cors-origin", metavar="URL", panel=LISTENING, help="Answer web pages of this origin; repeatable."),
    ] = None,
    strict_model: Annotated[
        bool,
        flag("--strict-model", panel=LISTENING, help="Refuse requests that name another model."),
    ] = False,
    keep: Annotated[
        str,
        flag(
            "--keep",
            metavar="TIME",
            panel=LIMITS,
            show_default=False,
            help="End after TIME without requests, as 90s, 15m (default), 2h or forever.",
        ),
    ] = "15m",
    parallel: Annotated[
        int | None,
        flag("--parallel", metavar="N", min=1, max=16, panel=LIMITS, help="Write up to N replies at the same time."),
    ] = None,
    queue: Annotated[
        int,
        flag(
            "--queue",
            metavar="N",
            min=1,
            panel=LIMITS,
            help="Let up to N requests wait. Default: 64.",
            show_default=False,
        ),
    ] = 64,
    cache_mib: Annotated[
        int,
        flag(
            "--cache-mib",
            metavar="N",
            min=0,
            panel=LIMITS,
            show_default=False,
            help="Keep up to N MiB of keys and values of earlier texts. Default: 1024.",
        ),
    ] = 1024,
    terminal_options: TerminalOptions,
) -> None:
    """Keep a model loaded and answer requests, until Ctrl-C or a time without requests.

    The other commands of this user find it by themselves. With --port, so do all clients of OpenAI's API.
    """
    keep_s = seconds(keep)
    model_options = replace(model_options, model=model)
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise UsageError(
            f"Other machines reach {host}, so the server needs a key: give --api-key, or set LLMCLI_API_KEY."
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
    check_origins(cors_origin or ())
    settings = ServeSettings(
        host=host,
        port=port,
        api_key=api_key or None,
        origins=tuple(cors_origin or ()),
        strict_model=strict_model,
        keep_s=keep_s,
        limits=WorkLimits(model_options.context, parallel, queue, cache_mib << 20),
    )
    started = time.perf_counter()
    server = RunningServer(checkpoint.name, settings, os.environ, tell=terminal.error)

    def load() -> tuple[LoadedModel, Identity]:
        loaded = load_model(checkpoint, model_options, template=prompt_options.chat_template)
        return loaded, identity(checkpoint, model_options, prompt_options.chat_template)

    def told(state: ServerState) -> None:
        _tell(state, time.perf_counter() - started, keep)

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
    )


def seconds(text: str) -> float | None:
    """The seconds of a time such as 90s, 15m or 2h; None for "forever".

    Raises:
        UsageError: it has another form.
    """
    if text == "forever":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
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
        terminal.note(f"It ends after {keep} without requests, or with Ctrl-C.")
