"""`llm batch`: many prompts from a file, a line of JSON for each reply."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.batch import input
from llmcli.commands.batch.output import ResultsFile
from llmcli.commands.shared import options
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt_input import decoded_text, read_file_bytes, read_stdin_bytes
from llmcli.commands.shared.sampling_options import NOT_GIVEN, SamplingOptions, with_sampling_flags
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.text.decode_bytes import UnknownEncodingError
from llmcli.views.terminal import terminal

# As many as the engine has rows; it is asked for only once torch is needed anyway.
_MOST_PARALLEL = 16

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.engine.batch.batch import BatchReply, Request
    from llmcli.text.chat.prompt import ChatPrompt


@with_sampling_flags
def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help='A line of JSON for each prompt: {"prompt": "..."} or {"messages": [{"role", "content"}, ...]}, as '
            "OpenAI writes them; a last message of the assistant is continued. With "
            '"id", "max_tokens", "temperature", "seed", "stop" and other sampling settings if they are to differ.',
        ),
    ],
    model: options.Model = None,
    system: options.System = None,
    strict_system: options.StrictSystem = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write results to this file, and go on where it ends if it is there. Default: standard output.",
        ),
    ] = None,
    parallel: Annotated[
        str,
        typer.Option(
            "--parallel",
            envvar="LLMCLI_PARALLEL",
            metavar="N|auto",
            help="How many replies are written at the same time. auto: as many as leave each what generate would say.",
        ),
    ] = "auto",
    raw: Annotated[
        bool, typer.Option("--raw", envvar="LLMCLI_RAW", help="Continue the prompts as they are, without the template.")
    ] = False,
    template: options.TemplateName = None,
    template_arg: options.TemplateArg = None,
    sampling: SamplingOptions = NOT_GIVEN,
    no_thinking: options.NoThinking = False,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    stats: options.ShowStats = False,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Answer every prompt of a file of JSON lines, several at a time, in order.

    Nothing is drafted or looked up: the texts themselves fill each pass of the model.
    """
    if raw and (system or template or template_arg):
        raise UsageError("--raw leaves out the chat template, so there is no place for --system or its settings.")
    rows = _parallel(parallel)
    variables = options.template_variables(template_arg)
    sampling.check()
    if out is not None and file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise UsageError(f"{out} is the input; give another --out.")
    lines = input.split_lines(_read(file))
    checkpoint = find_checkpoint(model)
    # Everything that decides what is said to a line, but for the line itself. What is off leaves the marks of results
    # alone that were written before there was such a setting.
    shared = {name: value for name, value in vars(sampling).items() if value is not False}
    shared |= {"no_thinking": True} if no_thinking else {}
    settings = json.dumps(
        [checkpoint.name, system, raw, _template(template), variables, shared, context, dtype, quantize],
        sort_keys=True,
    )
    marks = [line.mark(settings) for line in lines]
    with nullcontext() if out is None else ResultsFile(out) as results:
        done, failed = (0, 0) if results is None else results.resume(marks)
        if done:
            terminal.note(f"{done} of {len(lines)} results are there already.")
        if done < len(lines):
            loaded = load_model(
                checkpoint, device=device, dtype=dtype, quantize=quantize, threads=threads,
                template=template, context=context,
            )  # fmt: skip
            prompts = _Prompts(
                loaded, lines, sampling, system, variables,
                raw=raw, strict_system=strict_system, no_thinking=no_thinking,
            )  # fmt: skip
            failed += _answer(
                loaded, prompts, marks, results, done,
                parallel=rows, context=context, threads=threads, stats=stats,
            )  # fmt: skip
    if failed:
        terminal.error(f'{failed} of {len(lines)} lines could not be answered; their results have an "error".')
        raise typer.Exit(1)


class _Prompts:
    """From lines to requests, as these are needed; remembers what a result must tell of its line."""

    def __init__(
        self,
        loaded: LoadedModel,
        lines: Sequence[input.Line],
        sampling: SamplingOptions,
        system: str | None,
        variables: Mapping[str, object],
        *,
        raw: bool,
        strict_system: bool,
        no_thinking: bool,
    ) -> None:
        self._loaded, self._sampling, self._system, self._variables = loaded, sampling, system, variables
        self._raw, self._strict_system, self._no_thinking = raw, strict_system, no_thinking
        self._known_notes: set[str] = set()
        self.lines = lines
        self.ids: dict[int, input.Id] = {}
        self.seeds: dict[int, int | None] = {}

    @property
    def are_chats(self) -> bool:
        """Whether the prompts are written with a chat template."""
        return not self._raw and self._loaded.template is not None

    def requests(self, first: int) -> Iterator[Request | LlmcliError]:
        """What the lines from `first` on ask for, or why that cannot be answered."""
        return map(self._request_or_error, self.lines[first:])

    def _request_or_error(self, line: input.Line) -> Request | LlmcliError:
        try:
            return self._request(line)
        except LlmcliError as error:
            return error

    def _request(self, line: input.Line) -> Request:
        from llmcli.engine.batch.batch import Request

        value = input.parsed(line)
        self.ids[line.index] = input.id_of(value)
        task = input.task(value, self._sampling)
        params = task.sampling.params(self._loaded.generation_defaults, self._loaded.tokenizer)
        self.seeds[line.index] = params.seed
        built = self._prompt(task)
        return Request(tuple(built.ids), params, self.are_chats, built.start)

    def _prompt(self, task: input.BatchTask) -> ChatPrompt:
        from llmcli.commands.shared.prompt import ReplyPrompt
        from llmcli.text.chat.messages import Message

        if task.prompt is not None:
            prompt = ReplyPrompt.make(
                self._loaded,
                task.prompt,
                self._system,
                self._variables,
                raw=self._raw,
                strict_system=self._strict_system,
                no_thinking=self._no_thinking,
            )
            return self._noted(prompt.built(""))
        if self._raw or self._loaded.template is None:
            raise UsageError('Without a chat template there can be no "messages"; give a "prompt".')
        messages = task.messages
        if self._system and messages[0].role not in ("system", "developer"):
            messages = (Message("system", self._system), *messages)
        prompt = ReplyPrompt(
            self._loaded, self._loaded.template, "", messages, self._variables,
            strict_system=self._strict_system, no_thinking=self._no_thinking,
        )  # fmt: skip
        return self._noted(prompt.built("", continue_last=task.continues))

    def _noted(self, built: ChatPrompt) -> ChatPrompt:
        """`built`, after showing those of its notes that no line before has had."""
        for note in built.notes:
            if note not in self._known_notes:
                terminal.note(note)
            self._known_notes.add(note)
        return built


def _answer(
    loaded: LoadedModel,
    prompts: _Prompts,
    marks: Sequence[str],
    results: ResultsFile | None,
    first: int,
    *,
    parallel: int | None,
    context: int | None,
    threads: int | None,
    stats: bool,
) -> int:
    """Write the results from line `first` on; return how many are errors."""
    from llmcli.engine import Interruption
    from llmcli.views.terminal.progress import progress_bar

    engine = loaded.batch_engine(parallel=parallel, context_length=context, threads=threads, chat=prompts.are_chats)
    failed, total = 0, len(prompts.lines)
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar(unit="prompts") as progress:
        progress("Answering", first, total)
        for index, outcome in enumerate(engine.run(prompts.requests(first), interruption), first):
            failed += isinstance(outcome, LlmcliError)
            line = json_text(
                _result(
                    loaded.name,
                    index,
                    marks[index],
                    prompts.ids.pop(index, None),
                    prompts.seeds.pop(index, None),
                    outcome,
                ),
            )
            if results is None:
                terminal.write_line(line)
            else:
                results.append(line)
            progress("Answering", index + 1, total)
    if stats:
        from llmcli.views.reply.stats import batch_stats_line

        terminal.console_err().print(batch_stats_line(engine.stats), soft_wrap=True)
    if interruption.requested:
        if results is not None:
            terminal.note(f"Interrupted. What is done is in {results.path}; the same command goes on from there.")
        raise typer.Exit(130)
    return failed


def _result(
    model: str, index: int, mark: str, name: input.Id, seed: int | None, outcome: BatchReply | LlmcliError
) -> dict[str, object]:
    result: dict[str, object] = {"index": index, "id": name, "input": mark}
    if isinstance(outcome, LlmcliError):
        return result | {"error": str(outcome)}
    return result | {
        "model": model,
        "prompt_tokens": outcome.prompt_tokens,
        "generated_tokens": outcome.generated_tokens,
        "text": outcome.text,
        "thinking": outcome.thinking or None,
        "finish_reason": outcome.reason,
        "seed": seed,
    }


def _parallel(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_PARALLEL:
        raise UsageError(f"--parallel must be auto or a number from 1 to {_MOST_PARALLEL}, not {text!r}.")
    return int(text)


def _template(name: str | None) -> str | None:
    """What the chat template is known by: the source of one in a file."""
    from llmcli.checkpoint.chat_template_file import is_template_file, read_template_file

    return read_template_file(name) if name is not None and is_template_file(name) else name


def _read(file: str) -> bytes:
    """The input as UTF-8; where it is that but for single lines, those are as they are, and errors later on."""
    data = read_stdin_bytes() if file == "-" else read_file_bytes(Path(file))
    try:
        return decoded_text(data, "Standard input" if file == "-" else file).encode()
    except UnknownEncodingError:
        return data
