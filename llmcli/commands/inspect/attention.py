"""`llm inspect attention`: what each token of a text attends to, or one head's attention pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from llmcli.commands.shared import output
from llmcli.commands.shared.inspect_command import InspectContext, InspectResult, inspect_command
from llmcli.commands.shared.options.flags import SHOW, flag
from llmcli.errors import UsageError

_LONGEST_PATTERN = 512


@inspect_command()
def attention(
    context: InspectContext,
    position: output.Position = None,
    layer: Annotated[
        int | None, flag("--layer", metavar="L", env=False, panel=SHOW, help="Only this block, counted from 0.")
    ] = None,
    layers: Annotated[
        str | None, flag("--layers", metavar="A-B", env=False, panel=SHOW, help="Only these blocks, as in 10-20.")
    ] = None,
    head: Annotated[
        int | None,
        flag("--head", metavar="H", env=False, panel=SHOW, help="With --layer: the attention pattern of this head."),
    ] = None,
    all_heads: Annotated[
        bool, flag("--all-heads", env=False, panel=SHOW, help="The pattern of each head, for --html and --json.")
    ] = False,
    by: Annotated[
        Literal["token", "word", "line", "message"],
        flag("--by", metavar="UNIT", env=False, panel=SHOW, help="Sum attention by token, word, line or message."),
    ] = "token",
    top: Annotated[
        int,
        flag(
            "--top",
            metavar="N",
            min=1,
            env=False,
            panel=SHOW,
            help="List the N tokens or units that got the most attention.",
        ),
    ] = 5,
) -> InspectResult:
    """What did each token pay attention to? With --layer and --head: one head's pattern."""
    if head is not None and layer is None:
        raise UsageError("--head needs --layer: heads are numbered within their block.")
    if layer is not None and layers is not None:
        raise UsageError("Give --layer or --layers, not both.")
    if by == "message" and not context.chat:
        raise UsageError("--by message needs --chat: a raw text has no messages.")
    if all_heads and (head is not None or position is not None or by != "token"):
        raise UsageError("--all-heads gives whole patterns: it does not go with --head, --position and --by.")
    loaded, ids = context.loaded, context.ids

    from llmcli.inspection.attention.all_heads import head_patterns
    from llmcli.inspection.attention.pattern import attention_pattern
    from llmcli.inspection.attention.summary import summary
    from llmcli.inspection.core.text_spans import Spans
    from llmcli.text.chat.prompt import Message
    from llmcli.views.inspect import attention as views

    with context.progress("Reading") as progress:
        if head is not None and layer is not None:
            if position is None and len(ids) > _LONGEST_PATTERN:
                raise UsageError(f"The pattern of {len(ids)} tokens is too large; choose rows of it with --position.")
            at = output.positions(position, len(ids), default=range(len(ids)))
            pattern = attention_pattern(loaded, ids, layer, head, at, progress)
            return InspectResult(views.pattern_view(pattern), views.PATTERN_SCHEMA, pattern, views.PATTERN_NOTE)
        if all_heads:
            found = head_patterns(loaded, ids, only=_blocks(layer, layers, loaded.config.num_layers), progress=progress)
            return InspectResult(views.heads_view(found), views.HEADS_SCHEMA, found, views.HEADS_NOTE)
        result = summary(
            loaded,
            ids,
            output.positions(position, len(ids), default=output.last_positions(len(ids))),
            top=top,
            only=_blocks(layer, layers, loaded.config.num_layers),
            spans=Spans(by, loaded.tokenizer, [Message("user", context.content)]).of(ids),
            progress=progress,
        )
    return InspectResult(views.attention_view(result), views.SCHEMA, result, views.NOTE)


def _blocks(layer: int | None, layers: str | None, count: int) -> Sequence[int] | None:
    if layer is not None:
        return [layer]
    if layers is None:
        return None
    match = re.fullmatch(r"(\d+)-(\d+)", layers)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"--layers {layers} is not a range of blocks, as in 10-20.")
    if int(match[2]) >= count:
        raise UsageError(f"There is no block {match[2]}: the model has {count}, numbered from 0.")
    return range(int(match[1]), int(match[2]) + 1)
