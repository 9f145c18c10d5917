"""`llm score`: how probable a model finds a text, token by token."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmcli.commands import options
from llmcli.commands.loading import load_model
from llmcli.commands.prompt_input import decoded_text, read_prompt
from llmcli.errors import UsageError
from llmcli.views import terminal


def score(
    text: Annotated[
        str | None, typer.Argument(metavar="[FILE|TEXT|-]", help="A file, a text, or - (or nothing) for piped text.")
    ] = None,
    model: options.Model = None,
    chat: Annotated[bool, typer.Option("--chat", help="As a message in the chat template, not as raw text.")] = False,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    top: options.Top = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how surprising each token of a text is to a model, with perplexity and bits per byte."""
    content = _content(text, quiet=quiet)
    loaded = load_model(model, device=device, dtype=dtype, quiet=quiet)

    from llmcli.inspection.scoring import score as score_ids
    from llmcli.text.chat_prompt import Message, encode_chat, encode_raw
    from llmcli.views.progress import progress_bar
    from llmcli.views.score import coloured_text, score_json, score_summary, score_table

    if chat and loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; leave --chat out.")
    ids = (
        encode_chat(loaded.tokenizer, loaded.template, [Message("user", content)])
        if chat and loaded.template is not None
        else encode_raw(loaded.tokenizer, content)
    )
    with progress_bar(enabled=not quiet, unit="tokens") as progress:
        result = score_ids(
            loaded, ids, top=top, window=context, progress=lambda done, total: progress("Scoring", done, total)
        )
    if as_json:
        terminal.write_line(json.dumps(score_json(result), ensure_ascii=False))
        return
    console = terminal.console_out()
    token_bytes = loaded.tokenizer.token_bytes
    if terminal.shows_color(sys.stdout) and not top:
        from llmcli.views.tokens import legend

        console.print(coloured_text(result, token_bytes))
        terminal.console_err().print(legend())
    else:
        console.print(score_table(result, top, token_bytes))
    console.print(score_summary(result))


def _content(argument: str | None, *, quiet: bool) -> str:
    if argument is None or argument == "-":
        return read_prompt(argument, quiet=quiet)
    path = Path(argument)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a text too long, or too odd, to be a name
        is_file = False
    if not is_file:
        return argument
    return decoded_text(path.read_bytes())
