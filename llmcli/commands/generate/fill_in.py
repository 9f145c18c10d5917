"""`llm generate --fill-in`: the model writes the text between two texts (fill in the middle)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate.options import GenerateOptions
from llmcli.commands.shared.options.flags import is_flag_given
from llmcli.commands.shared.options.form import ChoiceOptions, FormOptions
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.loaded_model import LoadedModel

# Parameters that contradict --fill-in, and how an error names them.
_CONFLICTS = {
    "prompt": "a prompt",
    "file": "--file",
    "raw": "--raw",
    "control_tokens": "--control-tokens",
    "system": "--system",
    "prompt_template": "--prompt-template",
    "param": "--param",
    "prefill": "--prefill",
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
    """Raise `UsageError` if a flag on the command line contradicts --fill-in."""
    for name, words in _CONFLICTS.items():
        if is_flag_given(invocation, name):
            raise UsageError(
                f"--fill-in does not go with {words}: the prompt is the text before the gap and behind it."
            )


def without_conversation(options: GenerateOptions) -> GenerateOptions:
    """`options` without those for conversations and structured output that come from settings or variables.

    On the command line they are errors, see `check_alone`; a system prompt in the settings file is for conversations.
    """
    prompt = replace(
        options.prompt, raw=True, control_tokens=False, system=None, chat_template=None, template_arg=None, prefill=""
    )
    form = FormOptions(free_whitespace=options.form.free_whitespace)
    choice = ChoiceOptions(min_prob=options.choice.min_prob, readable=options.choice.readable)
    output = replace(options.output, record=None)
    return replace(options, prompt=prompt, form=form, choice=choice, output=output)


def with_fill_in_stops(loaded: LoadedModel) -> LoadedModel:
    """Return the model with the stop tokens of its fill-in format added.

    Raises:
        UsageError: the model has no fill-in format.
    """
    from llmcli.text.fill_in import fill_in_of

    ends = dict.fromkeys(sorted(fill_in_of(loaded.tokenizer, name=loaded.name).ends), ("fill-in",))
    return replace(loaded, declared_stop_ids={**ends, **loaded.declared_stop_ids})
