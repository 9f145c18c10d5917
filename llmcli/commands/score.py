"""`llm score`: how probable a model finds a text, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import TextOptions, ViewOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import file_or_text


@with_options
def score(
    invocation: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="[FILE|TEXT|-]", help="A file or a text. Default or -: piped text.")
    ] = None,
    *,
    model_options: Annotated[ModelOptions, only("model", "edit", "context", "kv_cache", "device", "dtype", "readable")],
    text_options: TextOptions,
    report_options: Annotated[ReportOptions, only("top")],
    view_options: ViewOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Show how surprising each token of a text is to a model, with perplexity and bits per byte."""
    output.check_template(invocation, chat=text_options.chat)
    content = file_or_text(text)
    # --context is the length of the scored windows here, not of a KV cache.
    loading = replace(model_options, context=None)
    loaded = load_model(
        find_checkpoint(model_options.model), loading, template=text_options.chat_template, may_quantize=False
    )

    from llmcli.inspection.evaluation.perplexity import score as score_ids
    from llmcli.views.inspect.perplexity import SCHEMA, ScoreView, score_json
    from llmcli.views.terminal.progress import progress_bar

    ids = output.text_ids(loaded.tokenizer, loaded.template, content, chat=text_options.chat, model=loaded.name)
    with progress_bar("Scoring", unit="tokens") as progress:
        result = score_ids(
            loaded,
            ids,
            top=report_options.top,
            window=model_options.context,
            readable=model_options.readable,
            progress=lambda done, total: progress("Scoring", done, total),
        )
    output.present(
        ScoreView(result, report_options.top, loaded.tokenizer.token_bytes),
        schema=SCHEMA,
        value=score_json(result, loaded.tokenizer.token_bytes),
        output=view_options,
        title="llm score",
    )
