"""`llm score`: how probable a model finds a text, token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import TextOptions, ViewOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.page_file import PAGE_CANDIDATES
from llmcli.commands.shared.prompt_input import file_or_text
from llmcli.commands.shared.server import server_for
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.inspection.evaluation.text_score import TextScore
    from llmcli.server.wire import ScoredText

    Scored: TypeAlias = tuple[str, TextScore, Callable[[int], bytes]]
    """The name of the model, the score of a text, and the bytes of the tokens in it."""


@with_options
def score(
    invocation: typer.Context,
    text: Annotated[
        str | None, typer.Argument(metavar="[FILE|TEXT|-]", help="A file or a text. Default or -: piped text.")
    ] = None,
    *,
    model_options: Annotated[
        ModelOptions,
        only(
            "model",
            "edit",
            "context",
            "kv_cache",
            "device",
            "dtype",
            "tensor_parallel",
            "pipeline_parallel",
            "readable",
            "server",
        ),
    ],
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
    from llmcli.server.wire import ScoredText

    top = report_options.top
    asked = ScoredText(
        content,
        text_options.chat,
        top=max(top, PAGE_CANDIDATES) if view_options.wants_page else top,
        window=model_options.context,
        readable=model_options.readable,
    )
    name, result, token_bytes = _served(loading, text_options.chat_template, asked) or _local(
        loading, text_options.chat_template, asked
    )

    from llmcli.views.inspect.perplexity import SCHEMA, ScoreView, score_json

    shown = replace(result, tokens=tuple(replace(token, top=token.top[:top]) for token in result.tokens))
    options = [("chat", text_options.chat), ("window", model_options.context)]
    output.present(
        ScoreView(shown, top, token_bytes),
        schema=SCHEMA,
        value=score_json(shown, token_bytes),
        output=view_options,
        title="llm score",
        about=[("model", name), ("text", content), *((key, value) for key, value in options if value)],
        page_value=score_json(result, token_bytes),
    )


def _served(options: ModelOptions, template: str | None, asked: ScoredText) -> Scored | None:
    """The score by a running server that holds the model; None if there is none."""
    server = server_for(options, template=template)
    if server is None:
        return None
    from llmcli.client.computed import served_score
    from llmcli.client.connection import NoServerError
    from llmcli.views.terminal.progress import progress_bar

    try:
        with progress_bar("Scoring", unit="tokens") as progress:
            result, token_bytes = served_score(
                server, asdict(asked), terminal.note, lambda done, total: progress("Scoring", done, total)
            )
        return server.model, result, token_bytes
    except NoServerError as error:
        terminal.note(f"{error} The model is loaded in this process.")
        return None


def _local(options: ModelOptions, template: str | None, asked: ScoredText) -> Scored:
    """The score by a model that this process loads."""

    from llmcli.commands.shared.load_model import find_checkpoint, load_model

    loaded = load_model(find_checkpoint(options.model), options, template=template, may_quantize=False)

    from llmcli.server.command_line.score import score_text
    from llmcli.views.terminal.progress import progress_bar

    with progress_bar("Scoring", unit="tokens") as progress:
        result = score_text(loaded, asked, lambda done, total: progress("Scoring", done, total))
    return loaded.name, result, loaded.tokenizer.token_bytes
