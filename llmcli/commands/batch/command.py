"""`llm batch`: answer many prompts from a file, with a line of JSON for each reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from llmcli.commands.batch import input
from llmcli.commands.batch.answers import MOST_PARALLEL, BatchAnswers, BatchInput, LocalAnswers, ServedAnswers
from llmcli.commands.batch.output import ResultsFile, result_line
from llmcli.commands.batch.workers.options import WorkerOptions
from llmcli.commands.shared.options.flags import OUTPUT, RUNNING, flag, only, with_options, without
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import decoded_text, read_file_bytes, read_stdin_bytes
from llmcli.commands.shared.server import server_for
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.decode_bytes import UnknownEncodingError
from llmcli.views.terminal import terminal


@with_options
def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help='JSON lines, one for each prompt: {"prompt": "..."} or {"messages": [{"role", "content"}, ...]}. A '
            'line may also set "id", "max_tokens", "temperature", "seed", "stop" and other sampling settings. '
            "-: piped lines.",
        ),
    ],
    *,
    model_options: Annotated[ModelOptions, without("edit", "readable")],
    prompt_options: Annotated[
        PromptOptions, only("system", "no_thinking", "raw", "strict_system", "chat_template", "template_arg")
    ],
    sampling_options: SamplingOptions,
    out: Annotated[
        Path | None,
        flag(
            "--out",
            "-o",
            env=False,
            metavar="FILE",
            panel=OUTPUT,
            help="Write results to this file; if it exists, continue where it ends.",
        ),
    ] = None,
    report_options: Annotated[ReportOptions, only("stats")],
    parallel: Annotated[
        str,
        flag(
            "--parallel",
            metavar="N|auto",
            panel=RUNNING,
            help="Write up to N replies at the same time. Default: auto, as many as fit.",
            show_default=False,
        ),
    ] = "auto",
    worker_options: WorkerOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Answer every prompt of a file of JSON lines, several at a time, in order.

    The replies themselves fill each pass of the model, so there is no --draft and no --lookup.
    """
    prompt_options.check_raw()
    rows = _parallel(parallel)
    worker_options.check()
    sampling_options.check()
    if out is not None and file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise UsageError(f"{out} is the input; give another --out.")
    asked = BatchInput(
        input.split_lines(_read(file)), model_options, prompt_options, prompt_options.variables(), sampling_options
    )
    model, answers = _answers(asked, rows, worker_options)
    marks = _marks(asked, model)
    with nullcontext() if out is None else ResultsFile(out) as results:
        done, failed = (0, 0) if results is None else results.resume(marks)
        if done:
            terminal.note(f"{done} of {len(marks)} results are there already.")
        if done < len(marks):
            failed += _answer(answers(), marks, results, done, stats=report_options.stats)
    if failed:
        terminal.error(f'{failed} of {len(marks)} lines could not be answered; their results have an "error".')
        raise typer.Exit(1)


def _answers(asked: BatchInput, parallel: int | None, workers: WorkerOptions) -> tuple[str, Callable[[], BatchAnswers]]:
    """The model's name, and what answers the lines: workers, a running server that holds the model, or this process."""
    if workers.ray is not None or (workers.workers or 1) > 1:
        return _workers(asked, parallel, workers)
    server = server_for(asked.model, template=asked.prompt.chat_template)
    if server is not None:
        return server.model, lambda: ServedAnswers(asked, server, parallel)
    from llmcli.commands.shared.load_model import find_checkpoint

    checkpoint = find_checkpoint(asked.model.model)
    return checkpoint.name, lambda: LocalAnswers(asked, checkpoint, parallel)


def _workers(asked: BatchInput, parallel: int | None, workers: WorkerOptions) -> tuple[str, Callable[[], BatchAnswers]]:
    from llmcli.commands.batch.workers.answers import worker_answers
    from llmcli.commands.shared.load_model import find_checkpoint

    if asked.model.server not in ("auto", "off"):
        raise UsageError("Each worker loads the model, so --server cannot name a server.")
    if asked.model.ranks > 1:
        raise UsageError(
            "A model that is split over ranks answers a batch alone: leave --workers and --ray, or --tp, out."
        )
    checkpoint = find_checkpoint(asked.model.model, weights=False)
    return checkpoint.name, lambda: worker_answers(asked, checkpoint, parallel, workers)


def _marks(asked: BatchInput, model: str) -> list[str]:
    """A hash for each line of everything that determines its reply: the line and the settings.

    Switches that are off are left out, so that adding a switch to the program does not invalidate older results.
    """
    shared = {name: value for name, value in vars(asked.sampling).items() if value is not False}
    shared |= {"no_thinking": True} if asked.prompt.no_thinking else {}
    template = _template(asked.prompt.chat_template)
    model_settings = [asked.model.context, asked.model.dtype, asked.model.quantize]
    settings = json.dumps(
        [model, asked.prompt.system, asked.prompt.raw, template, asked.variables, shared, *model_settings],
        sort_keys=True,
    )
    return [line.mark(settings) for line in asked.lines]


def _answer(
    answers: BatchAnswers, marks: Sequence[str], results: ResultsFile | None, first: int, *, stats: bool
) -> int:
    """Write the results from line `first` on; return the number of errors."""
    from llmcli.engine import Interruption
    from llmcli.views.terminal.progress import progress_bar

    failed, total = 0, len(marks)
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar("Answering", unit="prompts") as progress:
        progress("Answering", first, total)
        for result in answers.run(first, interruption, lambda done: progress("Answering", done, total)):
            failed += isinstance(result.outcome, LlmcliError)
            line = result_line(answers.model, result.index, marks[result.index], result.id, result.seed, result.outcome)
            if results is None:
                terminal.write_line(line)
            else:
                results.append(line)
    if stats:
        from llmcli.views.reply.stats import batch_stats_line

        terminal.console_err().print(batch_stats_line(answers.stats), soft_wrap=True)
    if interruption.requested:
        if results is not None:
            terminal.note(f"Interrupted. What is done is in {results.path}; the same command continues from there.")
        raise typer.Exit(130)
    return failed


def _parallel(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PARALLEL:
        raise UsageError(f"--parallel must be auto or a number from 1 to {MOST_PARALLEL}, not {text!r}.")
    return int(text)


def _template(name: str | None) -> str | None:
    """The chat template as it enters the marks: the source of a template file, otherwise the name."""
    from llmcli.checkpoint.chat_template_file import is_template_file, read_template_file

    return read_template_file(name) if name is not None and is_template_file(name) else name


def _read(file: str) -> bytes:
    """Read the input and convert it to UTF-8; if its encoding is unknown, keep the bytes: bad lines fail one by one."""
    data = read_stdin_bytes() if file == "-" else read_file_bytes(Path(file))
    try:
        return decoded_text(data, "Standard input" if file == "-" else file).encode()
    except UnknownEncodingError:
        return data
