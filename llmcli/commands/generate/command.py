"""`llm generate`: one prompt, one reply."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.options.flags import with_options, without
from llmcli.commands.shared.options.form import ChoiceOptions, FormOptions
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ReplyOutputOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.saving import SavingOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.commands.shared.options.terminal import TerminalOptions


@with_options
def generate(
    invocation: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. Piped text is added below it; - is the piped text alone.")
    ] = None,
    *,
    model_options: Annotated[ModelOptions, without("readable")],
    prompt_options: PromptOptions,
    saving: Annotated[SavingOptions, without("save")],
    sampling_options: SamplingOptions,
    report_options: ReportOptions,
    form_options: FormOptions,
    choice_options: ChoiceOptions,
    output_options: ReplyOutputOptions,
    speculation_options: SpeculationOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Answer one prompt and exit."""
    # Imported here, because the command line imports this module for every command.
    from llmcli.commands.generate.answer import answer, answer_several
    from llmcli.commands.generate.choices.choose import choose
    from llmcli.commands.generate.choices.run import prepared_choice
    from llmcli.commands.generate.options import GenerateOptions
    from llmcli.commands.generate.prepare import prepared
    from llmcli.commands.generate.request import check_request, read_text
    from llmcli.commands.generate.saving import continued, saved_run

    options = GenerateOptions(
        model_options,
        prompt_options,
        sampling_options,
        form_options,
        choice_options,
        report_options,
        speculation_options,
        output_options,
        saving,
    )
    path, options = continued(invocation, options)
    text, options = read_text(invocation, prompt, options)
    request = check_request(invocation, text, options)
    with saved_run(invocation, options, path) as saved:
        if request.answers:
            with prepared_choice(request, saved) as choice:
                choose(choice)
            return
        with prepared(request, saved) as run:
            if options.output.samples > 1:
                answer_several(run)
            else:
                answer(run)
