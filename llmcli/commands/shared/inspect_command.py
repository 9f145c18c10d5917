"""What makes a command of a function that looks into a model: the options that all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.flags import ExpandedCommand, only
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import InspectViewOptions, TextOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.text_assets import TextParts
    from llmcli.loaded_model import LoadedModel


@dataclass(frozen=True)
class InspectResult:
    """What an inspection found, for a person and for programs."""

    view: RenderableType
    schema: str
    value: object
    note: str
    """One line on how to read the view."""


@dataclass
class InspectContext:
    """What is inspected. Each part is made when first asked for, so that wrong options are reported before."""

    text: str | None
    options: ModelOptions
    text_options: TextOptions
    computes: bool = True
    """Whether torch computes something, of the model or of its weights."""

    @property
    def chat(self) -> bool:
        """Whether the text is a message in the chat template."""
        return self.text_options.chat

    @cached_property
    def content(self) -> str:
        """The text."""
        return output.read_text(self.text)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's headers; no weight is read."""
        return find_checkpoint(self.options.model, weights=self.computes)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, in float32 unless --dtype says otherwise or it is large."""
        return self.load(precise=True)

    def load(self, *, precise: bool) -> LoadedModel:
        """The model: `precise` for inspecting its inside, otherwise with the weights that `generate` has."""
        template = self.text_options.chat_template
        return load_model(self.checkpoint, self.options, template=template, precise=precise, may_quantize=False)

    @cached_property
    def ids(self) -> list[int]:
        """The tokens of the text, raw or as a message."""
        content, loaded = self.content, self.loaded
        return output.text_ids(loaded.tokenizer, loaded.template, content, chat=self.chat, model=loaded.name)

    @cached_property
    def text_parts(self) -> TextParts:
        """The model's tokenizer and chat templates, without its weights."""
        return self.checkpoint.read_text_parts()

    @cached_property
    def ids_without_weights(self) -> list[int]:
        """The tokens of the text, where the model is not needed otherwise."""
        content, name, parts = self.content, self.checkpoint.name, self.text_parts
        template = parts.template(self.text_options.chat_template)
        return output.text_ids(parts.tokenizer, template, content, chat=self.chat, model=name)

    @contextmanager
    def progress(
        self, what: str, unit: str = "tokens", *, estimate: bool = False
    ) -> Iterator[Callable[[int, int], None]]:
        """A function that shows (done, in all) as the progress of `what`; `estimate` is for what takes a minute."""
        with progress_bar(unit=unit, estimate=estimate) as report:
            yield lambda done, total: report(what, done, total)


def inspect_command(
    *,
    text: str | None = "The text to look at. Default or -: piped text.",
    metavar: str = "[TEXT|-]",
    chat: bool = True,
    weights: bool = True,
    computes: bool = True,
    title: str | None = None,
) -> Callable[[Callable[..., InspectResult]], Callable[..., None]]:
    """Make a command from a function that takes an `InspectContext` and more options, and returns its result.

    `text` is the help of the text argument, None if there is none; `chat` says whether the text can be a message, and
    `weights` whether the model is loaded; a command that `computes` nothing starts without torch. `title` names the
    command, where it is not one of `llm inspect`.
    """

    def decorate(report: Callable[..., InspectResult]) -> Callable[..., None]:
        return _InspectCommand(
            report, _shared_parameters(text, metavar, chat=chat, weights=weights), computes=computes, title=title
        )

    return decorate


class _InspectCommand(ExpandedCommand):
    """A function of an `InspectContext`, as a command."""

    def __init__(
        self,
        report: Callable[..., InspectResult],
        shared: dict[str, list[inspect.Parameter]],
        *,
        computes: bool,
        title: str | None,
    ) -> None:
        super().__init__(report)
        self._shared, self._computes, self._title = shared, computes, title

    @cached_property
    def parameters(self) -> list[inspect.Parameter]:
        """Required ones first; the text and the model before the function's own options, the rest after them."""
        own = self.own_parameters[1:]
        required = [parameter for parameter in own if parameter.default is parameter.empty]
        optional = [parameter for parameter in own if parameter.default is not parameter.empty]
        return [*required, *self._shared["before"], *optional, *self._shared["after"]]

    def run(self, arguments: dict[str, Any]) -> None:
        """Call the function and show what it found."""
        shared = {
            parameter.name: arguments.pop(parameter.name) for group in self._shared.values() for parameter in group
        }
        text_options: TextOptions = shared.get("text_options", TextOptions())
        if "text_options" in shared:
            output.check_template(shared["invocation"], chat=text_options.chat)
        view_options: InspectViewOptions = shared["view_options"]
        context = InspectContext(shared.get("text"), shared["model_options"], text_options, self._computes)
        found: InspectResult = self.__wrapped__(context, **arguments)
        output.present(
            found.view,
            schema=found.schema,
            value=found.value,
            output=view_options,
            note=found.note,
            explanation=_explanation(self.__name__) if view_options.explain else None,
            title=self._title,
        )


def _explanation(command: str) -> str:
    """The paragraph of the manual about a view: the section of the page `inspect` that is named like its command."""
    from llmcli.docs import pages

    return pages.paragraph("inspect", command)


def _shared_parameters(
    text: str | None, metavar: str, *, chat: bool, weights: bool
) -> dict[str, list[inspect.Parameter]]:
    """The parameters of every inspecting command, in two groups: those before the command's own, and those after."""
    text_argument = Annotated[str | None, typer.Argument(metavar=metavar, help=text)]
    terminal = () if text is None else ("encoding",)
    weights_of = ("edit", "device", "dtype") if weights else ()
    return {
        "before": [
            *([_parameter("invocation", typer.Context), _parameter("text_options", TextOptions)] if chat else []),
            *([] if text is None else [_parameter("text", text_argument).replace(default=None)]),
            _parameter("model_options", Annotated[ModelOptions, only("model", *weights_of)]),
        ],
        "after": [
            _parameter("view_options", InspectViewOptions),
            _parameter("terminal_options", Annotated[TerminalOptions, only("color", "quiet", *terminal)]),
        ],
    }


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
