"""What makes a command of a function that looks into a model: the options that all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.api import LoadedModel
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.text_assets import TextParts

_Described: TypeAlias = tuple[str, object, object]
"""An option: its name, its annotated type, its default."""


@dataclass(frozen=True)
class InspectResult:
    """What a look found: for a person, and for programs."""

    view: RenderableType
    schema: str
    value: object
    after: Sequence[RenderableType] = ()
    """How to read it; goes to stderr."""


@dataclass
class InspectContext:
    """What is looked at. Each part is had when it is first asked for, so that wrong options are told before."""

    text: str | None = None
    model: str | None = None
    chat: bool = False
    template: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    edit: Sequence[str] | None = None
    computes: bool = True
    """Torch computes something, of the model or of its weights."""

    @cached_property
    def content(self) -> str:
        """The text."""
        return output.read_text(self.text)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's headers; no weight is read."""
        return find_checkpoint(self.model, weights=self.computes)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, in float32 unless --dtype says otherwise or it is large."""
        return self.load(precise=True)

    def load(self, *, precise: bool) -> LoadedModel:
        """The model, `precise` as for looks inside it, or with weights as `generate` has them."""
        return load_model(
            self.checkpoint,
            device=self.device,
            dtype=self.dtype,
            template=self.template,
            edit=self.edit,
            precise=precise,
            may_quantize=False,
        )

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
        return output.text_ids(parts.tokenizer, parts.template(self.template), content, chat=self.chat, model=name)

    @contextmanager
    def progress(
        self, what: str, unit: str = "tokens", *, estimate: bool = False
    ) -> Iterator[Callable[[int, int], None]]:
        """A function to tell (done, in all) while `what` is going on; `estimate` is for what takes a minute."""
        with progress_bar(unit=unit, estimate=estimate) as report:
            yield lambda done, total: report(what, done, total)


def inspect_command(
    *,
    text: str | None = "The text to look at; - or nothing is piped text.",
    metavar: str = "[TEXT|-]",
    chat: bool = True,
    weights: bool = True,
    computes: bool = True,
    title: str | None = None,
) -> Callable[[Callable[..., InspectResult]], Callable[..., None]]:
    """Make a command of a function of a `InspectContext` and options of its own, which returns what it found.

    `text` is the help of the text argument, None if there is none; `chat` says whether the text can be a message, and
    `weights` whether the model is loaded; a command that `computes` nothing starts without torch. `title` names the
    command, where it is not one of `llm inspect`.
    """

    arguments = [] if text is None else [("text", _text_argument(text, metavar), None)]
    before: list[_Described] = [
        *arguments,
        ("model", options.Model, None),
        *([("chat", output.Chat, False), ("template", output.ChatTemplateName, None)] if chat else []),
    ]
    of_weights: list[_Described] = [
        ("edit", options.Edit, None),
        ("device", options.Device, "auto"),
        ("dtype", options.Dtype, "auto"),
    ]
    after = of_weights if weights else []
    after += [("encoding", options.Encoding, None)] if text is not None else []
    after += [
        ("as_json", output.AsJson, False),
        ("html", output.Html, None),
        ("svg", output.Svg, None),
        ("color", options.Color, None),
        ("quiet", options.Quiet, False),
    ]

    def decorate(report: Callable[..., InspectResult]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            mine = {parameter.name: given[parameter.name] for parameter in own}
            shared = {name: value for name, value in given.items() if name in InspectContext.__dataclass_fields__}
            if chat:
                output.check_template(given["invocation"], chat=given["chat"])
            shown = report(InspectContext(**shared, computes=computes), **mine)
            written = {name: given[name] for name in ("as_json", "html", "svg")}
            output.present(
                shown.view, schema=shown.schema, value=shown.value, after=shown.after, title=title, **written
            )

        own = list(inspect.signature(report, eval_str=True).parameters.values())[1:]
        required = [parameter for parameter in own if parameter.default is parameter.empty]
        optional = [parameter for parameter in own if parameter.default is not parameter.empty]
        invocation = [inspect.Parameter("invocation", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        parameters = [
            *(invocation if chat else []),
            *required,
            *map(_parameter, before),
            *optional,
            *map(_parameter, after),
        ]
        command.__name__, command.__doc__ = report.__name__, report.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        # What Typer reads options from.
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        return command

    return decorate


def _text_argument(text: str, metavar: str) -> object:
    return Annotated[str | None, typer.Argument(metavar=metavar, help=text)]


def _parameter(described: _Described) -> inspect.Parameter:
    name, annotation, default = described
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
