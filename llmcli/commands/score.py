"""`llm score`: how probable a model finds a text, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt_input import argument_text, read_file_text, read_prompt


def score(
    invocation: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="[FILE|TEXT|-]", help="A file, a text, or - (or nothing) for piped text.")
    ] = None,
    model: options.Model = None,
    edit: options.Edit = None,
    chat: output.Chat = False,
    template: output.ChatTemplateName = None,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    readable: options.Readable = False,
    top: options.Top = 0,
    as_json: output.AsJson = False,
    html: output.Html = None,
    svg: output.Svg = None,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how surprising each token of a text is to a model, with perplexity and bits per byte."""
    output.check_template(invocation, chat=chat)
    content = _content(text)
    loaded = load_model(
        find_checkpoint(model),
        device=device,
        dtype=dtype,
        template=template,
        edit=edit,
        readable=readable,
        may_quantize=False,
    )

    from llmcli.inspection.evaluation.perplexity import score as score_ids
    from llmcli.views.inspect.perplexity import SCHEMA, ScoreView, score_json
    from llmcli.views.terminal.progress import progress_bar

    ids = output.text_ids(loaded.tokenizer, loaded.template, content, chat=chat, model=loaded.name)
    with progress_bar(unit="tokens") as progress:
        result = score_ids(
            loaded,
            ids,
            top=top,
            window=context,
            readable=readable,
            progress=lambda done, total: progress("Scoring", done, total),
        )
    output.present(
        ScoreView(result, top, loaded.tokenizer.token_bytes),
        schema=SCHEMA,
        value=score_json(result, loaded.tokenizer.token_bytes),
        as_json=as_json,
        html=html,
        svg=svg,
        title="llm score",
    )


def _content(argument: str | None) -> str:
    if argument is None or argument == "-":
        return read_prompt(argument)
    path = Path(argument)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a text too long, or too odd, to be a name
        is_file = False
    if not is_file:
        return argument_text(argument, "The text")
    return read_file_text(path)
