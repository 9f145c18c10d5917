"""`llm replay`: a recorded reply once more, and where it comes out differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.generate.record import hashes
from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt_input import read_file_text
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.replay.run_record import RunRecord


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What llm generate --record wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="Another model. Default: the one that was recorded."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Default: as recorded, if it is there.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Default: as recorded.")] = None,
    as_json: output.AsJson = False,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Generate a recorded reply again and name the first token that differs; exit code 1 if there is one."""
    data = _read(file)

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
    loaded = load_model(
        checkpoint,
        device=device or _device(run),
        # Weights kept in few bits are what "auto" means for such a file.
        dtype=dtype or ("auto" if run.weights == "stored" else run.dtype),
        quantize=run.weights if dtype is None and run.weights in ("int8", "int4") else None,
    )
    files = hashes(checkpoint)
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar(unit="tokens") as progress:
        result = replay_run(
            loaded,
            run,
            files,
            interruption=interruption,
            progress=lambda done, total: progress("Replaying", done, total),
        )
    if interruption.requested:
        raise typer.Exit(130)
    if as_json:
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
