"""`llm replay`: generate a recorded reply again, and find where it differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import DEVICES, DTYPES, MODELS
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import MODEL, RUNNING, flag, only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import read_file_text
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.replay.run_record import RunRecord


@with_options
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by llm generate --record.")],
    *,
    model: Annotated[
        str | None,
        flag(
            "--model",
            "-m",
            env=False,
            metavar="NAME|PATH",
            panel=MODEL,
            autocompletion=MODELS,
            help="Another model. Default: the recorded one.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        flag(
            "--dtype", env=False, panel=MODEL, autocompletion=DTYPES, help="Type of the weights. Default: as recorded."
        ),
    ] = None,
    device: Annotated[
        str | None,
        flag(
            "--device",
            env=False,
            panel=RUNNING,
            autocompletion=DEVICES,
            help="Where to compute. Default: as recorded, if this machine has it.",
        ),
    ] = None,
    view_options: Annotated[ViewOptions, only("as_json")],
    terminal_options: Annotated[TerminalOptions, only("color", "quiet")],
) -> None:
    """Generate a recorded reply again and report the first token that differs. Exit code 1 if one does."""
    data = _read(file)

    from llmcli.commands.generate.record import hashes
    from llmcli.engine import Interruption
    from llmcli.replay.replay import replay as replay_run
    from llmcli.replay.run_record import from_json
    from llmcli.views.reply.replay import SCHEMA, replay_view
    from llmcli.views.terminal.progress import progress_bar
    from llmcli.views.terminal.to_json import json_line

    try:
        run = from_json(data)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    name = model if model is not None else run.path if Path(run.path).exists() else run.model
    checkpoint = find_checkpoint(name)
    options = ModelOptions(
        device=device or _device(run),
        # "auto" keeps the packed weights of a quantized file.
        dtype=dtype or ("auto" if run.weights == "stored" else run.dtype),
        quantize=run.weights if dtype is None and run.weights in ("int8", "int4") else None,
        kv_cache=run.kv_cache,
    )
    loaded = load_model(checkpoint, options)
    files = hashes(checkpoint)
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar("Replaying", unit="tokens") as progress:
        result = replay_run(
            loaded,
            run,
            files,
            interruption=interruption,
            progress=lambda done, total: progress("Replaying", done, total),
        )
    if interruption.requested:
        raise typer.Exit(130)
    if view_options.as_json:
        terminal.write_line(json_line(SCHEMA, result))
    else:
        terminal.console_out().print(replay_view(result))
    if not result.same:
        raise typer.Exit(1)


def _read(file: Path) -> object:
    try:
        return json.loads(read_file_text(file))
    except (ValueError, RecursionError):
        raise UsageError(f"{file} is not JSON; give a file that llm generate --record wrote.") from None


def _device(run: RunRecord) -> str:
    from llmcli.device import choose_device

    try:
        return str(choose_device(run.device))
    except UsageError:
        return "auto"
