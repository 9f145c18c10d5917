"""`llm compare`: two models, or one in two precisions, on one text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.api import LoadedModel


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A model.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another with the same tokenizer, or the same again.")],
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT|-]", help="The text to compare them on; - or nothing is piped text.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            callback=options.text,
            help="Compare them on what A answers to this, instead.",
        ),
    ] = None,
    chat: output.Chat = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="How much each writes by itself.")
    ] = 64,
    dtype_a: Annotated[str, typer.Option("--dtype-a", help="Of A: auto, float32, bfloat16 or float16.")] = "auto",
    dtype_b: Annotated[str, typer.Option("--dtype-b", help="Of B.")] = "auto",
    device: options.Device = "auto",
    readable: options.Readable = False,
    as_json: output.AsJson = False,
    html: output.Html = None,
    svg: output.Svg = None,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how far apart what two models expect is, token by token (KL divergence), and where they would part.

    The models are loaded one after the other, so that only one must fit into memory.
    """
    if prompt is not None and text is not None:
        raise UsageError("Give a text, or a --prompt that A answers, not both.")
    content = prompt if prompt is not None else output.read_text(text)
    if not content:
        raise UsageError("The prompt is empty.")
    # Both are found before either is loaded: a wrong name should not cost the wait.
    checkpoints = [find_checkpoint(name) for name in (first, second)]

    from llmcli.inspection.evaluation.model_diff import compare as compare_models
    from llmcli.views.inspect.model_diff import SCHEMA, ComparisonView
    from llmcli.views.terminal.progress import progress_bar

    def loader(index: int, dtype: str) -> Callable[[], LoadedModel]:
        return lambda: load_model(checkpoints[index], device=device, dtype=dtype, readable=readable, may_quantize=False)

    def ids(loaded: LoadedModel) -> list[int]:
        as_message = chat or (prompt is not None and loaded.template is not None)
        return output.text_ids(loaded.tokenizer, loaded.template, content, chat=as_message, model=loaded.name)

    with progress_bar(unit="tokens") as progress:
        result = compare_models(
            loader(0, dtype_a),
            loader(1, dtype_b),
            ids,
            reply=prompt is not None,
            max_tokens=max_tokens,
            readable=readable,
            names=(_called(checkpoints[0].name, dtype_a), _called(checkpoints[1].name, dtype_b)),
            progress=progress,
        )
    output.present(
        ComparisonView(result),
        schema=SCHEMA,
        value=result,
        as_json=as_json,
        html=html,
        svg=svg,
        title="llm compare",
    )


def _called(name: str, dtype: str) -> str:
    return name if dtype == "auto" else f"{name} in {dtype}"
