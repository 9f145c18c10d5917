"""`llm compare`: two models, or one in two precisions, on one text."""

from __future__ import annotations

from collections.abc import Sequence
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
from llmcli.commands.shared.server import check_no_server_named, servers_for
from llmcli.errors import LlmcliError, UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.inspection.evaluation.comparison_side import ComparisonSide
    from llmcli.server.registry import ServerState
    from llmcli.server.wire import ContinuedText


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
    model_options: Annotated[ModelOptions, only("device", "readable", "server")],
    view_options: ViewOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Show how much the predictions of two models differ at each token (KL divergence), and where their replies part.

    The models are loaded one after the other: only one at a time must fit into memory.
    """
    prompt = compare_options.prompt
    if prompt is not None and content is not None:
        raise UsageError("Give a text, or a --prompt that A answers, not both.")
    words = prompt if prompt is not None else output.read_text(content)
    if not words:
        raise UsageError("The prompt is empty.")
    # Find both before loading either, so that a wrong name is reported at once.
    first_side, second_side = _sides(
        [
            replace(model_options, model=first, dtype=compare_options.dtype_a),
            replace(model_options, model=second, dtype=compare_options.dtype_b),
        ]
    )

    from llmcli.inspection.evaluation.model_diff import compare as compare_models
    from llmcli.server.wire import ContinuedText
    from llmcli.views.inspect.model_diff import SCHEMA, ComparisonView
    from llmcli.views.terminal.progress import progress_bar

    asked = ContinuedText(words, chat=text_options.chat, answer=prompt is not None)
    with progress_bar(unit="tokens") as progress:
        result = compare_models(
            lambda: first_side.model(asked),
            lambda: second_side.model(asked),
            reply=prompt is not None,
            max_tokens=compare_options.max_tokens,
            names=(first_side.label, second_side.label),
            progress=progress,
        )
    output.present(
        ComparisonView(result),
        schema=SCHEMA,
        value=result,
        output=view_options,
        title="llm compare",
        about=[
            ("model", " and ".join(result.models)),
            ("text", words),
            *([("chat", True)] if text_options.chat else []),
        ],
    )


@dataclass(frozen=True)
class _Side:
    """One of the two models: how it is loaded, and the server that holds it already."""

    options: ModelOptions
    server: ServerState | None
    checkpoint: Checkpoint | None
    """None if a server holds it."""

    @property
    def label(self) -> str:
        """The name of the model, and the dtype that was asked for."""
        dtype = self.options.dtype
        return self._name if dtype == "auto" else f"{self._name} in {dtype}"

    def model(self, asked: ContinuedText) -> ComparisonSide:
        """The model with its prompt."""
        if self.server is None:
            return self._load(asked)
        from llmcli.client.compared import ServedComparison

        return ServedComparison(self.server, asked, lambda: self._load(asked), terminal.note)

    def _load(self, asked: ContinuedText) -> ComparisonSide:
        """The model in this process."""
        from llmcli.inspection.evaluation.comparison_side import LocalComparison
        from llmcli.server.command_line.compare import prompt_ids

        checkpoint = self.checkpoint or find_checkpoint(self.options.model)
        loaded = load_model(checkpoint, self.options, may_quantize=False)
        return LocalComparison(loaded, lambda loaded: prompt_ids(loaded, asked), readable=self.options.readable)

    @property
    def _name(self) -> str:
        if self.checkpoint is not None:
            return self.checkpoint.name
        assert self.server is not None
        from llmcli.checkpoint.files.model_files import model_name
        from llmcli.client.find import model_path

        try:
            return model_name(model_path(self.options.model))
        except LlmcliError:  # it is on another machine
            return self.server.model


def _sides(options: Sequence[ModelOptions]) -> list[_Side]:
    """Both models, found but not loaded."""
    if options[0].readable:
        # A server may have packed its weights for the fast path.
        check_no_server_named(options[0], "--readable")
        options = [replace(each, server="off") for each in options]
    servers = servers_for(options)
    if all(servers):
        from llmcli.startup.lazy_torch import import_torch

        # For the numbers that compare them.
        import_torch()
    return [
        _Side(each, server, find_checkpoint(each.model) if server is None else None)
        for each, server in zip(options, servers, strict=True)
    ]
