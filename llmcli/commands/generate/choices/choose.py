"""`llm generate --choices`: print the most probable of the given answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate.kept_reply import keep
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.choices.run import ChoiceRun
    from llmcli.commands.generate.choices.thought import Thought
    from llmcli.inspection.evaluation.answer_choices import AnswerChoices

SCHEMA = "llmcli.choices/1"


def choose(run: ChoiceRun) -> None:
    """Print the most probable answer, or all of them as JSON; with --probs or --top also a table on stderr.

    A reasoning model thinks first: its thought goes to stderr, and the answers are compared after it.

    Raises:
        LlmcliError: the thought did not end.
        typer.Exit: the best answer's share of the probability of all answers is less than --min-prob.
    """
    from llmcli.commands.generate.choices.thought import Thought, think
    from llmcli.views.reply.multiple_choice import answers_view
    from llmcli.views.terminal.progress import prefill_progress, progress_bar
    from llmcli.views.widgets.token_table import percent

    options = run.options
    thought = think(run.source.thinking()) if run.source.may_think else Thought()
    with progress_bar(unit="tokens") as progress:
        result = run.source.compare(thought.ids, prefill_progress(progress))
    best = result.choices[0]
    keep(run, best.text)
    if options.output.as_json:
        _print_json(run, thought, result)
    else:
        terminal.write_line(best.text)
    if options.report.probs or options.report.top > 0:
        terminal.console_err().print(answers_view(result, options.report.top))
    least = options.choice.min_prob
    if least is not None and best.prob < least:
        terminal.error(f"Unsure: {best.text!r} has {percent(best.prob)} of the answers' probability, not {least}.")
        raise typer.Exit(1)


def _print_json(run: ChoiceRun, thought: Thought, result: AnswerChoices) -> None:
    from llmcli.views.terminal.to_json import json_line

    best = result.choices[0]
    value = {"model": run.begin.model, "prompt": run.request.text, "choice": best.text, "prob": best.prob}
    rest = {name: getattr(result, name) for name in ("covered", "prompt_tokens", "read_tokens", "path", "choices")}
    extra = {"thinking": thought.text or None, "seed": run.params.seed if thought.ids else None}
    terminal.write_line(json_line(SCHEMA, value | rest | extra))
