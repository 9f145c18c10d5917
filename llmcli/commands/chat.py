"""`llm chat`: a conversation in the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmcli.commands import options
from llmcli.commands.explain import Look, attention_watch, explain
from llmcli.commands.following import follow
from llmcli.commands.keyboard import keyboard_lines
from llmcli.commands.loading import find_checkpoint, load_model
from llmcli.commands.looking_back import LookingBack
from llmcli.commands.prompt_input import read_stdin, stdin_is_piped
from llmcli.errors import LlmcliError, UsageError
from llmcli.views import terminal

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.engine import Conversation, Finish, SamplingParams, Stats, Step


def chat(
    model: options.Model = None,
    system: options.System = None,
    template: options.TemplateName = None,
    template_arg: options.TemplateArg = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    probs: options.Probs = False,
    top: options.Top = 0,
    attention: options.Attention = False,
    attention_by: options.AttentionBy = "token",
    stats: options.ShowStats = False,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Talk with a model. Piped text is the first message; then the keyboard has the word."""
    variables = options.template_variables(template_arg)
    sampling = options.SamplingOptions(
        temperature, top_k, top_p, min_p, repeat_penalty, seed, max_tokens, tuple(stop or ())
    )
    sampling.check()
    first = read_stdin(quiet=quiet) if stdin_is_piped() else ""
    loaded = load_model(
        find_checkpoint(model, quiet=quiet),
        device=device,
        dtype=dtype,
        quantize=quantize,
        threads=threads,
        quiet=quiet,
        template=template,
        to_look_inside=attention,
    )
    if loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; llm generate continues text with it.")

    from llmcli.engine import Conversation

    engine = loaded.engine(context_length=context, threads=threads)
    session = ChatSession(
        loaded,
        Conversation(engine, loaded.tokenizer, loaded.template, system, template_args=variables),
        sampling.params(loaded.generation_defaults),
        Look(probs=probs, top=top, attention=attention, by=attention_by),
        stats=stats,
        quiet=quiet,
    )
    if first:
        session.reply_to(first)
    if not quiet:
        terminal.note(f"{loaded.name}, {engine.context_length} tokens of context. /help lists the commands.")
    session.run(keyboard_lines())


class ChatSession:
    """Reads messages and commands, and writes replies."""

    def __init__(
        self,
        loaded: LoadedModel,
        conversation: Conversation,
        params: SamplingParams,
        look: Look,
        *,
        stats: bool,
        quiet: bool,
    ) -> None:
        self.conversation = conversation
        self._loaded, self._params, self._look = loaded, params, look
        self._stats, self._quiet = stats, quiet
        self._last_stats: Stats | None = None
        looking_back = LookingBack(loaded, conversation, quiet=quiet)
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "help": (self._help, "this list"),
            "system": (self._system, "TEXT is what the model is told before the conversation; without TEXT, show it"),
            "clear": (self._clear, "forget the conversation, keep the system prompt"),
            "retry": (self._retry, "take the last reply back and have another"),
            "stats": (self._show_stats, "what the last reply cost"),
            "why": (looking_back.why, "N: all about token N of the last reply; without N, about the last"),
            "lens": (looking_back.lens, "N: what each layer would have said in its place"),
            "attention": (looking_back.attention, "N: what was read to say it"),
            "exit": (self._exit, "leave, as Ctrl-D does"),
        }
        self._leaving = False

    def run(self, lines: Iterator[str]) -> None:
        """Answer each of `lines` until there are no more, or one says /exit."""
        for line in lines:
            text = line.strip()
            try:
                if text.startswith("//"):
                    self.reply_to(text[1:])
                elif text.startswith("/"):
                    self._obey(text[1:])
                elif text:
                    self.reply_to(line)
            except LlmcliError as error:
                # The conversation goes on: only this message or command failed.
                terminal.error(str(error))
            if self._leaving:
                return

    def reply_to(self, text: str) -> None:
        """Write the model's reply to `text`; Ctrl-C ends the reply and keeps what was said."""
        from llmcli.engine import Interruption
        from llmcli.views.progress import progress_bar
        from llmcli.views.reply import ReplyWriter

        interruption = Interruption()
        with interruption.catching_ctrl_c(), progress_bar(enabled=not self._quiet, unit="tokens") as progress:
            events = self.conversation.ask(
                text,
                self._params,
                probabilities=self._look.probs or self._look.top > 0,
                top=self._look.top,
                observer=attention_watch(self._loaded, self.conversation.with_question(text), self._look),
                interruption=interruption,
                progress=lambda done, total: progress("Reading the prompt", done, total),
            )
            steps, finish = follow(events, ReplyWriter(coloured=self._look.probs).show)
        self._finished(finish, steps)

    def _finished(self, finish: Finish, steps: list[Step]) -> None:
        self._last_stats = finish.stats
        explain(self.conversation.tokenizer, steps, self._look)
        if finish.reason == "interrupted":
            terminal.note("Interrupted; what was said is kept.")
        if finish.reason == "context":
            terminal.note("The context is full; the reply ends there. /clear starts anew.")
        if self._stats:
            self._show_stats("")

    def _obey(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, n=1)
            hint = f"Did you mean /{near[0]}?" if near else "/help lists them."
            raise UsageError(f"There is no command /{name}. {hint} For a message that begins with a slash, write //.")
        self._commands[name][0](argument.strip())

    def _help(self, _argument: str) -> None:
        width = max(map(len, self._commands))
        for name, (_, what) in self._commands.items():
            terminal.note(f"/{name.ljust(width)}  {what}")
        terminal.note("Ctrl-C ends a reply, Ctrl-D leaves. For a message that begins with a slash, write //.")

    def _system(self, argument: str) -> None:
        if argument:
            self.conversation.system = argument
        terminal.note(f"System prompt: {self.conversation.system or '(none)'}")

    def _clear(self, _argument: str) -> None:
        self.conversation.messages.clear()
        terminal.note("The conversation is forgotten.")

    def _retry(self, _argument: str) -> None:
        self.reply_to(self.conversation.take_back())

    def _show_stats(self, _argument: str) -> None:
        from llmcli.views.stats import stats_line

        if self._last_stats is None:
            raise UsageError("There has been no reply yet.")
        terminal.console_err().print(stats_line(self._last_stats), soft_wrap=True)

    def _exit(self, _argument: str) -> None:
        self._leaving = True
