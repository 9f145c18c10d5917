"""Read the prompt of `llm generate` and check its options, before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate import fill_in, structured_output
from llmcli.commands.generate.options import GenerateOptions
from llmcli.commands.generate.record import Recorder
from llmcli.commands.shared import prompt_template_files
from llmcli.commands.shared.options.flags import is_flag_given
from llmcli.commands.shared.prompt_input import read_prompt
from llmcli.commands.shared.speculative import Speculator
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcli.engine.guided.grammar import Rule


@dataclass(frozen=True)
class CheckedRequest:
    """A prompt and checked options."""

    text: str
    """The prompt; with --fill-in, the text before the gap."""
    options: GenerateOptions
    variables: Mapping[str, object]
    """Variables of the chat template."""
    answers: Sequence[str]
    """The answers of --choices; empty without it."""
    rule: Rule | None
    """The form of the reply (structured output); None for free text."""
    recorder: Recorder
    speculator: Speculator


def read_text(invocation: typer.Context, prompt: str | None, options: GenerateOptions) -> tuple[str, GenerateOptions]:
    """Read the prompt, and return it with the options that apply to it.

    The prompt comes from files, the argument, a pipe, a --prompt-template, which may set a system prompt, or the two
    texts of --fill-in, which exclude the options for conversations.

    Raises:
        UsageError: there is no prompt, or flags contradict each other.
    """
    asked = options.prompt
    if asked.prompt_template is None and asked.param:
        raise UsageError("--param is for a --prompt-template, and none is given.")
    if asked.fill_in is not None:
        fill_in.check_alone(invocation)
    if asked.control_tokens and not asked.raw and is_flag_given(invocation, "control_tokens"):
        raise UsageError(
            "--control-tokens is for --raw: in a conversation the chat template writes the control tokens."
        )
    if asked.fill_in is not None:
        return asked.fill_in[0], fill_in.without_conversation(options)
    if asked.prompt_template is None:
        return read_prompt(prompt, asked.file or (), raw=asked.raw), options
    text, system = prompt_template_files.read_filled(
        asked.prompt_template, prompt, asked.param, asked.file or (), raw=asked.raw
    )
    # The template's system prompt overrides one in the settings, but not a flag.
    if system is not None and not is_flag_given(invocation, "system"):
        options = replace(options, prompt=replace(asked, system=system))
    return text, options


def check_request(invocation: typer.Context, text: str, options: GenerateOptions) -> CheckedRequest:
    """Check the options as far as possible without a model, so that a wrong value is reported before loading one.

    Raises:
        UsageError: a value is invalid, or flags contradict each other.
    """
    asked, output, form = options.prompt, options.output, options.form
    asked.check_raw()
    variables = asked.variables()
    options.sampling.check()
    answers = options.choice.answers()
    if not answers and is_flag_given(invocation, "readable"):
        raise UsageError("--readable is for --choices, and none are given.")
    if answers and (output.as_jsonl or options.report.attention or output.wants_page or output.svg or output.record):
        raise UsageError("--choices prints one answer and goes with --probs, --top and --json only.")
    if output.samples > 1 and (answers or output.wants_page or output.svg or output.record or output.no_newline):
        raise UsageError(
            "--samples gives several replies: it does not go with --choices, --html, --open, --svg, --record and "
            "--no-newline."
        )
    # `check` above has refused a single seed that is too large.
    if ((options.sampling.seed or 0) + output.samples - 1) >= 1 << 63:
        raise UsageError(f"--samples {output.samples} counts seeds from --seed on, and they end at 2^63 - 1.")
    if form.json_schema is None and form.grammar is None and is_flag_given(invocation, "free_whitespace"):
        raise UsageError("--free-whitespace is for the JSON of a --json-schema or a --grammar, and none is given.")
    rule = structured_output.given_rule(form, prefill=asked.prefill)
    if rule is not None and (answers or output.record):
        raise UsageError("--json-schema, --regex and --grammar do not go with --choices or --record.")
    if options.model.edit and output.record:
        raise UsageError("--record does not go with --edit: the run could not be reproduced without the edits.")
    recorder = Recorder(output.record)
    speculator = Speculator(options.speculation)
    if options.speculation.draft is not None and output.record is not None:
        raise UsageError("--draft does not go with --record: the run could not be reproduced without the draft model.")
    return CheckedRequest(text, options, variables, answers, rule, recorder, speculator)
