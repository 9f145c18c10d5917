"""Turn a function that inspects a model into a command, with the options that all such commands share."""

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
    """The result of an inspection: a view for the terminal, and a value for JSON."""

    view: RenderableType
    schema: str
    value: object
    note: str
    """One line on how to read the view."""


@dataclass
class InspectContext:
    """The text and model of an inspection. Each is loaded on first use, so that wrong options are reported before."""

    text: str | None
    options: ModelOptions
    text_options: TextOptions
    computes: bool = True
    """Whether the command computes with torch; otherwise torch is not imported."""

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
        """The checkpoint, with its headers read but not its weights."""
        return find_checkpoint(self.options.model, weights=self.computes)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The loaded model, in float32 unless --dtype sets another type or the model is large."""
        return self.load(precise=True)

    def load(self, *, precise: bool) -> LoadedModel:
        """Load the model: in float32 if `precise` (see `load_model`), otherwise with the weights of `generate`."""
        template = self.text_options.chat_template
        return load_model(self.checkpoint, self.options, template=template, precise=precise, may_quantize=False)

    @cached_property
    def ids(self) -> list[int]:
        """Token ids of the text, raw or as a message in the chat template."""
        from llmcli.text.chat.text_ids import text_ids

        content, loaded = self.content, self.loaded
        return text_ids(loaded.tokenizer, loaded.template, content, chat=self.chat, model=loaded.name)

    @cached_property
    def text_parts(self) -> TextParts:
        """The model's tokenizer and chat templates, without its weights."""
        return self.checkpoint.read_text_parts()

    @cached_property
    def ids_without_weights(self) -> list[int]:
        """The same ids as `ids`, without loading the weights."""
        from llmcli.text.chat.text_ids import text_ids

        content, name, parts = self.content, self.checkpoint.name, self.text_parts
        template = parts.template(self.text_options.chat_template)
        return text_ids(parts.tokenizer, template, content, chat=self.chat, model=name)

    def about(self) -> list[tuple[str, object]]:
        """What was inspected: the model, the text, and how it was encoded and computed, as far as options say so."""
        options, text_options = self.options, self.text_options
        named = [
            ("model", self.checkpoint.name),
            ("text", None if self.text is None and "content" not in self.__dict__ else self.content),
            ("chat", text_options.chat or None),
            ("chat-template", text_options.chat_template),
            ("edit", ", ".join(options.edit or ()) or None),
            ("dtype", None if options.dtype == "auto" else options.dtype),
        ]
        return [(name, value) for name, value in named if value is not None]

    @contextmanager
    def progress(
        self, what: str, unit: str = "tokens", *, estimate: bool = False
    ) -> Iterator[Callable[[int, int], None]]:
        """Yield a function that shows (done, total) as progress of `what`, the work of the block, as `progress_bar`."""
        with progress_bar(what, unit=unit, estimate=estimate) as report:
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
    """Make a command from a function that takes an `InspectContext` and further options and returns an `InspectResult`.

    - `text`: the help of the text argument; None for a command without one.
    - `chat`: the text can be a message in the chat template.
    - `weights`: the command loads the weights.
    - `computes`: the command uses torch; otherwise it starts without importing it.
    - `title`: the name of a command outside `llm inspect`.
    """

    def decorate(report: Callable[..., InspectResult]) -> Callable[..., None]:
        return _InspectCommand(
            report, _shared_parameters(text, metavar, chat=chat, weights=weights), computes=computes, title=title
        )

    return decorate


class _InspectCommand(ExpandedCommand):
    """The command that `inspect_command` makes."""

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
        """Required parameters, the text and model options, the function's own options, then the output options."""
        own = self.own_parameters[1:]
        required = [parameter for parameter in own if parameter.default is parameter.empty]
        optional = [parameter for parameter in own if parameter.default is not parameter.empty]
        return [*required, *self._shared["before"], *optional, *self._shared["after"]]

    def run(self, arguments: dict[str, Any]) -> None:
        """Call the function and present its result."""
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
            about=context.about(),
        )


def _explanation(command: str) -> str:
    """The manual's paragraph about a view: the section of the page `inspect` with the name of its command."""
    from llmcli.docs import pages

    return pages.paragraph("inspect", command)


def _shared_parameters(
    text: str | None, metavar: str, *, chat: bool, weights: bool
) -> dict[str, list[inspect.Parameter]]:
    """The shared parameters of inspect commands, in two groups: before and after the command's own parameters."""
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
