"""`llm generate --choices`: the model chooses among answers instead of writing one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared import options
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.commands.shared.prompt import ReplyPrompt
    from llmcli.engine import Engine, SamplingParams
    from llmcli.text.chat.prompt import ChatPrompt

_PANEL = "Choosing"
SCHEMA = "llmcli.choices/1"

GivenChoices: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--choices",
        envvar="LLMCLI_CHOICES",
        metavar="A,B,...",
        callback=options.text,
        rich_help_panel=_PANEL,
        help="Print the most probable of these answers; texts with commas as a JSON array. May be given several times.",
    ),
]
MinProb: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-prob",
        envvar="LLMCLI_MIN_PROB",
        metavar="P",
        rich_help_panel=_PANEL,
        help="With --choices: exit with code 1 if the best answer's share is below P.",
    ),
]
Readable: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--readable",
        rich_help_panel=_PANEL,
        help="With --choices: compute with the readable PyTorch model, not with the fast path.",
    ),
]


def parse_choices(given: Sequence[str] | None, min_prob: float | None) -> list[str]:
    """The answers, in the order given; empty if none are asked for.

    Each argument is a list with commas, whose items lose the spaces around them, or a JSON array of texts as they are.

    Raises:
        UsageError: an argument of another form, an answer given twice, or a --min-prob that makes no sense.
    """
    if min_prob is not None and not given:
        raise UsageError("--min-prob is for --choices, and none are given.")
    if min_prob is not None and not 0 <= min_prob <= 1:
        raise UsageError(f"--min-prob must be from 0 to 1, not {min_prob}.")
    answers: list[str] = []
    for argument in given or ():
        answers += _array(argument) if argument.lstrip().startswith("[") else map(str.strip, argument.split(","))
    for number, answer in enumerate(answers):
        if not answer:
            raise UsageError("One of the --choices is empty.")
        if answer in answers[:number]:
            raise UsageError(f"--choices gives {answer!r} twice.")
    if len(answers) == 1:
        raise UsageError("--choices needs at least two answers to choose from.")
    return answers


def _array(argument: str) -> list[str]:
    try:
        values = json.loads(argument)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UsageError(f'--choices {argument} is not a JSON array of texts, as in ["a, b", "c"].')
    return values


def choose(
    prompt: ReplyPrompt,
    answers: Sequence[str],
    engine: Engine,
    params: SamplingParams,
    built: ChatPrompt,
    *,
    context: int | None,
    threads: int | None,
    readable: bool,
    min_prob: float | None,
    table: bool,
    top: int,
    as_json: bool,
) -> None:
    """Print the most probable answer, or as JSON all of them; with `table`, all (or the `top` best) on stderr.

    Exit code 1 if its share among them is less than `min_prob`. The fast path computes with `threads`, as in a reply,
    or with `readable` the readable model.

    A model that thinks before it answers does so first, with `engine` and `params`: the answers are compared after its
    thought, which goes to stderr. `built` is what `prompt` is to the model.

    Raises:
        LlmcliError: the thought had no end.
    """
    from llmcli.commands.generate.thought import Thought, think
    from llmcli.inspection.evaluation.multiple_choice import choose as choose_ids
    from llmcli.text.reply_start import opening_tokens
    from llmcli.text.trusted_encoding import TextSegment
    from llmcli.views.reply.multiple_choice import answers_view
    from llmcli.views.terminal.progress import progress_bar
    from llmcli.views.terminal.to_json import json_line
    from llmcli.views.widgets.token_table import percent

    loaded, start = prompt.loaded, built.start
    thinks = loaded.tokenizer.thinking.awaits_answer(start.state)
    thought = Thought()
    if thinks or (start.state == "begin" and not prompt.no_thinking and opening_tokens(loaded.tokenizer)):
        thought = think(engine, loaded.tokenizer, built, replace(params, stop=()))
    before = [*built.ids, *thought.ids]

    def with_answer(answer: str) -> list[int]:
        if not thought.ids:
            return prompt.ids(start.prefill + answer)
        segment = TextSegment(answer, trusted=False)
        return before + loaded.tokenizer.encode_segments([segment], continuation=True)

    with progress_bar(unit="tokens") as progress:
        result = choose_ids(
            loaded,
            before,
            {answer: with_answer(answer) for answer in answers},
            whole=prompt.template is not None and bool(loaded.stop_ids),
            context_length=context,
            threads=threads,
            readable=readable,
            progress=lambda done, total: progress("Reading the prompt", done, total),
        )
    best = result.choices[0]
    if as_json:
        value = {"model": loaded.name, "prompt": prompt.text, "choice": best.text, "prob": best.prob}
        rest = {name: getattr(result, name) for name in ("covered", "prompt_tokens", "read_tokens", "path", "choices")}
        told = {"thinking": thought.text or None, "seed": params.seed if thought.ids else None}
        terminal.write_line(json_line(SCHEMA, value | rest | told))
    else:
        terminal.write_line(best.text)
    if table:
        terminal.console_err().print(answers_view(result, top))
    if min_prob is not None and best.prob < min_prob:
        terminal.error(f"Unsure: {best.text!r} has {percent(best.prob)} of the answers' probability, not {min_prob}.")
        raise typer.Exit(1)
