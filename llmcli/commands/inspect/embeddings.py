"""`llm inspect embeddings`: nearest neighbors of a word's embedding, and of sums of embeddings."""

from __future__ import annotations

from typing import Annotated

from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import RUNNING, SHOW, flag


@inspect_command(
    text='A word, or words to add up, as in "king - man + woman".',
    metavar="[WORD|EXPRESSION|-]",
    chat=False,
    weights=False,
)
def embeddings(
    context: InspectContext,
    top: Annotated[
        int, flag("--top", metavar="N", min=1, env=False, panel=SHOW, help="List the N nearest tokens.")
    ] = 10,
    seed: Annotated[
        int,
        flag(
            "--seed",
            metavar="N",
            min=0,
            env=False,
            panel=RUNNING,
            help="Random seed for the pairs of tokens compared with.",
        ),
    ] = 0,
) -> InspectResult:
    """Which tokens have the embeddings nearest to a word, or to a sum of words (by cosine)?"""
    content, checkpoint = context.content, context.checkpoint

    from llmcli.inspection.residual.embeddings import embedding_neighbors, parse_expression, read_embedding
    from llmcli.views.inspect.embeddings import NOTE, SCHEMA, EmbeddingsView

    tokenizer = context.text_parts.tokenizer
    expression = parse_expression(tokenizer, content)
    result = embedding_neighbors(tokenizer, read_embedding(checkpoint, tokenizer), expression, top=top, seed=seed)
    return InspectResult(EmbeddingsView(result), SCHEMA, result, NOTE)
