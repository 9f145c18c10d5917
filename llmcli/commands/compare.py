"""`llm compare`: two models, or one in two precisions, on one text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.completion import DTYPES, MODELS
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import MODEL, PROMPT, SAMPLING, flag, only, text, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import TextOptions, ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.loaded_model import LoadedModel


@dataclass(frozen=True)
class CompareOptions:
    """The prompt, and the dtype of each model."""

    prompt: Annotated[
        str | None,
        flag(
            "--prompt",
            "-p",
            env=False,
            metavar="TEXT",
            callback=text,
            panel=PROMPT,
            help="Compare them on A's answer to this prompt.",
        ),
    ] = None
    max_tokens: Annotated[
        int,
        flag(
            "--max-tokens",
            "-n",
            env=False,
            metavar="N",
            min=1,
            panel=SAMPLING,
            help="Let each model write N tokens.",
        ),
    ] = 64
    dtype_a: Annotated[
        str,
        flag(
            "--dtype-a",
            env=False,
            panel=MODEL,
            autocompletion=DTYPES,
            help="Type of A's weights: auto, float32, bfloat16 or float16.",
        ),
    ] = "auto"
    dtype_b: Annotated[
        str, flag("--dtype-b", env=False, panel=MODEL, autocompletion=DTYPES, help="Type of B's weights.")
    ] = "auto"


@with_options
def compare(
    first: Annotated[str, typer.Argument(metavar="A", autocompletion=MODELS, help="A model.")],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B", autocompletion=MODELS, help="Another model with the same tokenizer, or the same model."
        ),
    ],
    content: Annotated[
        str | None, typer.Argument(metavar="[TEXT|-]", help="The text to compare them on. Default or -: piped text.")
    ] = None,
    *,
    compare_options: CompareOptions,
    text_options: Annotated[TextOptions, only("chat")],
    model_options: Annotated[ModelOptions, only("device", "readable")],
    view_options: ViewOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Show how much the predictions of two models differ at each token (KL divergence), and where their replies part.

    The models are loaded one after the other: only one at a time must fit into memory.
    """
    prompt, dtype_a, dtype_b = compare_options.prompt, compare_options.dtype_a, compare_options.dtype_b
    if prompt is not None and content is not None:
        raise UsageError("Give a text, or a --prompt that A answers, not both.")
    words = prompt if prompt is not None else output.read_text(content)
    if not words:
        raise UsageError("The prompt is empty.")
    # Find both before loading either, so that a wrong name is reported at once.
    checkpoints = [find_checkpoint(name) for name in (first, second)]

    from llmcli.inspection.evaluation.model_diff import compare as compare_models
    from llmcli.text.chat.text_ids import text_ids
    from llmcli.views.inspect.model_diff import SCHEMA, ComparisonView
    from llmcli.views.terminal.progress import progress_bar

    def loader(index: int, dtype: str) -> Callable[[], LoadedModel]:
        return lambda: load_model(checkpoints[index], replace(model_options, dtype=dtype), may_quantize=False)

    def ids(loaded: LoadedModel) -> list[int]:
        as_message = text_options.chat or (prompt is not None and loaded.template is not None)
        return text_ids(loaded.tokenizer, loaded.template, words, chat=as_message, model=loaded.name)

    with progress_bar(unit="tokens") as progress:
        result = compare_models(
            loader(0, dtype_a),
            loader(1, dtype_b),
            ids,
            reply=prompt is not None,
            max_tokens=compare_options.max_tokens,
            readable=model_options.readable,
            names=(_label(checkpoints[0].name, dtype_a), _label(checkpoints[1].name, dtype_b)),
            progress=progress,
        )
    output.present(ComparisonView(result), schema=SCHEMA, value=result, output=view_options, title="llm compare")


def _label(name: str, dtype: str) -> str:
    return name if dtype == "auto" else f"{name} in {dtype}"
