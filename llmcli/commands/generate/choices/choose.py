"""`llm generate --choices`: print the most probable of the given answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from llmcli.commands.generate.kept_reply import keep
from llmcli.commands.generate.source import LocalReply
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.generate.choices.thought import Thought
    from llmcli.commands.generate.prepare import Run
    from llmcli.inspection.evaluation.multiple_choice import AnswerChoices

SCHEMA = "llmcli.choices/1"


def choose(run: Run) -> None:
    """Print the most probable answer, or all of them as JSON; with --probs or --top also a table on stderr.

    A reasoning model thinks first: its thought goes to stderr, and the answers are compared after it.

    Raises:
        LlmcliError: the thought did not end.
        typer.Exit: the best answer's share of the probability of all answers is less than --min-prob.
    """
    from llmcli.views.reply.multiple_choice import answers_view
    from llmcli.views.widgets.token_table import percent

    options, source = run.options, run.source
    assert isinstance(source, LocalReply)
    thought = _thought(source, no_thinking=options.prompt.no_thinking)
    result = _compare(run, source, thought)
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


def _thought(source: LocalReply, *, no_thinking: bool) -> Thought:
    """Generate the model's thought; empty if it does not think."""
    from llmcli.commands.generate.choices.thought import Thought, think
    from llmcli.text.reply_start import opening_tokens

    tokenizer, built = source.loaded.tokenizer, source.reply.built
    may_think = built.start.state == "begin" and not no_thinking and opening_tokens(tokenizer)
    if tokenizer.thinking.awaits_answer(built.start.state) or may_think:
        return think(source.engine, tokenizer, built, replace(source.reply.params, stop=()))
    return Thought()


def _compare(run: Run, source: LocalReply, thought: Thought) -> AnswerChoices:
    """Compute the probability of each answer after the prompt and the thought."""
    from llmcli.inspection.evaluation.multiple_choice import choose as choose_ids
    from llmcli.text.trusted_encoding import TextSegment
    from llmcli.views.terminal.progress import progress_bar

    loaded, options, prompt, built = source.loaded, run.options, source.reply.prompt, source.reply.built
    before = [*built.ids, *thought.ids]

    def with_answer(answer: str) -> list[int]:
        if not thought.ids:
            return prompt.built(built.start.prefill + answer).ids
        segment = TextSegment(answer, trusted=False)
        return before + loaded.tokenizer.encode_segments([segment], continuation=True)

    with progress_bar(unit="tokens") as progress:
        return choose_ids(
            loaded,
            before,
            {answer: with_answer(answer) for answer in run.request.answers},
            whole=prompt.template is not None and bool(loaded.stop_ids),
            context_length=options.model.context,
            threads=options.model.threads,
            readable=options.choice.readable,
            progress=lambda done, total: progress("Reading the prompt", done, total),
        )


def _print_json(run: Run, thought: Thought, result: AnswerChoices) -> None:
    from llmcli.views.terminal.to_json import json_line

    best = result.choices[0]
    value = {"model": run.begin.model, "prompt": run.request.text, "choice": best.text, "prob": best.prob}
    rest = {name: getattr(result, name) for name in ("covered", "prompt_tokens", "read_tokens", "path", "choices")}
    extra = {"thinking": thought.text or None, "seed": run.params.seed if thought.ids else None}
    terminal.write_line(json_line(SCHEMA, value | rest | extra))
