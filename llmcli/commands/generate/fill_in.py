"""`llm generate --fill-in`: the model writes what comes between two texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared import options
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.text.fill_in import FillIn

Gap: TypeAlias = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--fill-in",
        metavar="PREFIX SUFFIX",
        callback=options.text,
        help="Write what comes between two texts, with a model that was made for it.",
    ),
]

# What has no place beside the two texts, by the name of the parameter.
_NOT_BESIDE = {
    "prompt": "a prompt",
    "raw": "--raw",
    "control_tokens": "--control-tokens",
    "system": "--system",
    "prompt_template": "--prompt-template",
    "param": "--param",
    "prefill": "--prefill",
    "template": "--template",
    "template_arg": "--template-arg",
    "chat_template": "--chat-template",
    "strict_system": "--strict-system",
    "choices": "--choices",
    "json_schema": "--json-schema",
    "regex": "--regex",
    "grammar": "--grammar",
    "record": "--record",
}


def check_alone(invocation: typer.Context) -> None:
    """Raise `UsageError` if a flag was given that says something else about the prompt or the form of the reply."""
    for name, words in _NOT_BESIDE.items():
        if options.is_flag_given(invocation, name):
            raise UsageError(
                f"--fill-in does not go with {words}: the prompt is the text before the gap and behind it."
            )


def made_to_fill_in(loaded: LoadedModel) -> tuple[LoadedModel, FillIn]:
    """How a model fills a gap, and the model so that its reply also ends where the gap is filled.

    Raises:
        UsageError: it was not made for that.
    """
    from llmcli.text.fill_in import fill_in_of

    fill_in = fill_in_of(loaded.tokenizer, name=loaded.name)
    ends = dict.fromkeys(sorted(fill_in.ends), ("fill-in",))
    return replace(loaded, declared_stop_ids={**ends, **loaded.declared_stop_ids}), fill_in
