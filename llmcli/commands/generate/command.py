"""`llm generate`: one prompt, one reply."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.generate import structured_output
from llmcli.commands.generate.choices import GivenChoices, MinProb, Readable, choose, parse_choices
from llmcli.commands.generate.fill_in import Gap, check_alone, made_to_fill_in
from llmcli.commands.generate.json_lines import JsonLines
from llmcli.commands.generate.record import Record, Recorder
from llmcli.commands.shared import options, output, prompt_template_files, speculative
from llmcli.commands.shared.consume import follow
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt import ReplyPrompt
from llmcli.commands.shared.prompt_input import read_prompt
from llmcli.commands.shared.sampling_options import NOT_GIVEN, SamplingOptions, with_sampling_flags
from llmcli.commands.shared.token_report import ReportOptions, check_report, explain, read_attention, reply_page
from llmcli.errors import UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmcli.engine import Event
    from llmcli.text.tokenizer import Tokenizer


@with_sampling_flags
def generate(
    invocation: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask. Piped text is added below it; - is the piped text alone.")
    ] = None,
    model: options.Model = None,
    edit: options.Edit = None,
    system: options.System = None,
    strict_system: options.StrictSystem = False,
    prompt_template: prompt_template_files.Use = None,
    param: prompt_template_files.Params = None,
    raw: Annotated[
        bool, typer.Option("--raw", envvar="LLMCLI_RAW", help="Continue the text as it is, without the chat template.")
    ] = False,
    control_tokens: Annotated[
        bool,
        typer.Option(
            "--control-tokens",
            envvar="LLMCLI_CONTROL_TOKENS",
            help="With --raw: what spells a control token is one. Only for prompts you wrote yourself.",
        ),
    ] = False,
    fill_in: Gap = None,
    prefill: Annotated[
        str,
        typer.Option(
            "--prefill",
            envvar="LLMCLI_PREFILL",
            metavar="TEXT",
            callback=options.text,
            help="How the reply is to begin.",
        ),
    ] = "",
    template: options.TemplateName = None,
    template_arg: options.TemplateArg = None,
    sampling: SamplingOptions = NOT_GIVEN,
    no_thinking: options.NoThinking = False,
    choices: GivenChoices = None,
    min_prob: MinProb = None,
    readable: Readable = False,
    json_schema: structured_output.JsonSchema = None,
    regex: structured_output.Regex = None,
    grammar: structured_output.Grammar = None,
    free_whitespace: structured_output.FreeWhitespace = False,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    draft: speculative.Draft = None,
    lookup: speculative.Lookup = None,
    draft_tokens: speculative.DraftTokens = "auto",
    probs: options.Probs = False,
    top: options.Top = 0,
    attention: options.Attention = False,
    attention_by: options.AttentionBy = "token",
    as_json: Annotated[
        bool, typer.Option("--json", envvar="LLMCLI_JSON", help="The whole reply as one JSON object.")
    ] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", envvar="LLMCLI_JSONL", help="Every event as a line of JSON, as it happens.")
    ] = False,
    html: output.Html = None,
    svg: output.Svg = None,
    record: Record = None,
    show_prompt: Annotated[
        bool,
        typer.Option(
            "--show-prompt", envvar="LLMCLI_SHOW_PROMPT", help="The exact tokens the model is given, on stderr."
        ),
    ] = False,
    no_newline: options.NoNewline = False,
    stats: options.ShowStats = False,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Answer one prompt and exit."""
    if prompt_template is None and param:
        raise UsageError("--param is for a --prompt-template, and none is given.")
    if fill_in is not None:
        check_alone(invocation)
    if control_tokens and not raw and options.is_flag_given(invocation, "control_tokens"):
        raise UsageError(
            "--control-tokens is for --raw: in a conversation the chat template writes the control tokens."
        )
    if fill_in is not None:
        # Only flags of this invocation count: a system prompt in the settings file is for conversations.
        text, raw, control_tokens = fill_in[0], True, False
        system = template = template_arg = choices = json_schema = regex = grammar = record = None
        prefill = ""
    elif prompt_template is None:
        text = read_prompt(prompt)
    else:
        text, its_system = prompt_template_files.read_filled(prompt_template, prompt, param)
        # More to the point than what holds in general, but not than what is said here and now.
        if its_system is not None and not options.is_flag_given(invocation, "system"):
            system = its_system
    if raw and system:
        raise UsageError("--raw leaves out the chat template, so there is no place for a --system prompt.")
    if raw and (template or template_arg):
        raise UsageError("--raw leaves out the chat template, so --chat-template and --template-arg say nothing.")
    variables = options.template_variables(template_arg)
    # Before the model is loaded: a wrong value should not cost the wait.
    sampling.check()
    answers = parse_choices(choices, min_prob)
    if not answers and options.is_flag_given(invocation, "readable"):
        raise UsageError("--readable is for --choices, and none are given.")
    readable = readable and bool(answers)
    if answers and (as_jsonl or attention or html or svg or record):
        raise UsageError("--choices prints one answer and goes with --probs, --top and --json only.")
    if json_schema is None and grammar is None and options.is_flag_given(invocation, "free_whitespace"):
        raise UsageError("--free-whitespace is for the JSON of a --json-schema or a --grammar, and none is given.")
    rule = structured_output.given_rule(json_schema, regex, grammar, free_whitespace=free_whitespace, prefill=prefill)
    if rule is not None and (answers or record):
        raise UsageError("--json-schema, --regex and --grammar do not go with --choices or --record.")
    if edit and record:
        raise UsageError("--record does not go with --edit: the run could not be had again without the edits.")
    recorder = Recorder(record)
    helped = speculative.Speculating(draft, lookup, draft_tokens)
    if draft is not None and record is not None:
        raise UsageError("--draft does not go with --record: without it, what was drawn would not be had again.")
    checkpoint = find_checkpoint(model)
    if not answers:
        helped.find()
    loaded = load_model(
        checkpoint,
        device=device,
        dtype=dtype,
        quantize=quantize,
        threads=threads,
        template=template,
        context=context,
        edit=edit,
        readable=readable,
    )
    gap = None
    if fill_in is not None:
        loaded, gap = made_to_fill_in(loaded)
    asked = ReplyPrompt.make(
        loaded, text, system, variables,
        raw=raw, strict_system=strict_system, no_thinking=no_thinking,
    )  # fmt: skip
    if fill_in is not None and gap is not None:
        asked = replace(asked, gap=(gap, fill_in[1]))
    elif raw and control_tokens:
        asked = replace(asked, control_tokens=True)
    built = asked.built(prefill)
    ids = built.ids
    for note in built.notes:
        terminal.note(note)
    engine = helped.engine(
        loaded,
        context=context,
        threads=threads,
        device=device,
        dtype=dtype,
        chat=asked.is_chat,
    )
    if asked.control_tokens:
        _note_control_tokens(loaded.tokenizer, text + prefill)
    if show_prompt:
        _show_prompt(loaded.tokenizer, ids)
    if answers:
        choose(
            asked,
            answers,
            engine,
            sampling.params(loaded.generation_defaults, loaded.tokenizer),
            built,
            context=context,
            threads=threads,
            readable=readable,
            min_prob=min_prob,
            table=probs or top > 0,
            top=top,
            as_json=as_json,
        )
        return
    params = sampling.params(loaded.generation_defaults, loaded.tokenizer)

    report = ReportOptions(probs=probs, top=top, attention=attention, by=attention_by)
    check_report(report, is_chat=bool(asked.messages))

    from llmcli.engine import Interruption
    from llmcli.engine.guided.constraint import Constraint
    from llmcli.engine.reasoning import ThinkingApart
    from llmcli.views.reply.writer import ReplyWriter
    from llmcli.views.terminal.progress import progress_bar

    apart = ThinkingApart(loaded.tokenizer, built.start, exact=rule is not None)
    constraint, start = None, built.start
    if rule is not None:
        constraint = Constraint(rule, loaded.tokenizer, asked.stop_ids, prefill=apart.prefill)
        start = structured_output.start_of_form(constraint, loaded.tokenizer, start, no_thinking=no_thinking)
        apart = ThinkingApart(loaded.tokenizer, start, exact=True)
    said, thought = apart.prefill, apart.prefill_thinking
    interruption = Interruption()
    with interruption.catching_ctrl_c(), progress_bar(unit="tokens") as progress:
        events = engine.stream(
            ids,
            params,
            probabilities=probs or top > 0 or as_json or as_jsonl or any((html, svg, record)),
            top=recorder.candidates(top),
            constraint=constraint,
            start=start,
            interruption=interruption,
            progress=lambda done, total: progress("Reading the prompt", done, total),
        )
        if constraint is not None:
            structured_output.warn_of_no_ending(constraint)
        show: Callable[[Event], None] | None = None
        lines = JsonLines(loaded.name, params.seed, loaded.tokenizer.token_bytes) if as_jsonl else None
        if lines is not None:
            show = lines.show
        elif not as_json:
            show = ReplyWriter(colored=probs, prefill=said, thought=thought, newline=not no_newline).show
        constrained = None
        if constraint is not None:
            hold = not as_jsonl and not terminal.is_terminal(terminal.stdout())
            constrained = structured_output.ConstrainedReply(constraint, show, hold=hold)
            show = constrained.hear
        generated, finish = follow(map(apart, recorder.listening(events, top)), show)
    if constrained is not None and lines is None:
        constrained.end(finish, awaits_answer=apart.awaits_answer)
    looked = read_attention(loaded, asked.messages, ids, generated, report)
    steps = looked.steps
    if lines is not None:
        lines.end(steps)
        if constrained is not None:
            constrained.end(finish, awaits_answer=apart.awaits_answer)
    if as_json:
        from llmcli.views.reply.reply_json import reply_json

        reply = reply_json(
            model=loaded.name,
            prompt=text,
            suffix=None if fill_in is None else fill_in[1],
            prefill=said,
            prefill_thinking=thought,
            seed=params.seed,
            steps=steps,
            finish=finish,
            token_bytes=loaded.tokenizer.token_bytes,
        )
        terminal.write_line(json_text(reply))
    elif not as_jsonl:
        explain(loaded.tokenizer, steps, report)
    if html is not None or svg is not None:
        output.write_files(
            reply_page(loaded.tokenizer, steps, report, prefill=prefill),
            title=f"llm generate, {loaded.name}",
            html=html,
            svg=svg,
        )
    recorder.write(asked, engine, params, finish, checkpoint, built=built)
    if stats:
        from llmcli.views.reply.stats import stats_line

        terminal.console_err().print(stats_line(finish.stats), soft_wrap=True)
    if finish.reason == "context":
        terminal.note(f"The context of {engine.context_length} tokens is full; the reply ends there.")
    if looked.error is not None:
        raise looked.error
    if finish.reason == "interrupted" or looked.interrupted:
        raise typer.Exit(130)


def _note_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    """Which control tokens a prompt spells, and how often."""
    ids = tokenizer.encode(text, add_special_tokens=False, control_tokens=True)
    found = Counter(tokenizer.piece(token) for token in ids if tokenizer.is_guarded(token))
    counted = ", ".join(piece if count == 1 else f"{piece} ({count} times)" for piece, count in found.items())
    terminal.note(f"Control tokens in the prompt: {counted or 'none'}.")


def _show_prompt(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    from llmcli.views.reply.prompt_tokens import prompt_token_table

    rows = [(token, tokenizer.token_bytes(token), tokenizer.is_guarded(token)) for token in ids]
    terminal.console_err().print(prompt_token_table(rows))
