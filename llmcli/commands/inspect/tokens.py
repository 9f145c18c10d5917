"""`llm inspect tokens`: a text as the model is given it."""

from __future__ import annotations

from llmcli.commands import options
from llmcli.commands.inspect import base
from llmcli.views.progress import progress_bar


def tokens(
    text: base.Text = None,
    model: options.Model = None,
    chat: base.Chat = False,
    as_json: base.AsJson = False,
    html: base.Html = None,
    svg: base.Svg = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Show the tokens of a text: their pieces, ids and bytes, and which of them are control tokens."""
    content = base.read_text(text, quiet=quiet)
    from llmcli.checkpoint.resolve import resolve

    with progress_bar(enabled=not quiet) as progress:
        path = resolve(model, progress=progress)
    from llmcli.checkpoint.opened import open_checkpoint
    from llmcli.inspection.tokenization import tokenization
    from llmcli.views.tokenization import SCHEMA, tokenization_view

    checkpoint = open_checkpoint(path)
    parts = checkpoint.read_text_parts()
    ids = base.text_ids(parts.tokenizer, parts.template(None), content, chat=chat, model=checkpoint.name)
    result = tokenization(parts.tokenizer, ids)
    base.present(tokenization_view(result), schema=SCHEMA, value=result, as_json=as_json, html=html, svg=svg)
