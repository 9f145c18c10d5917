"""A chat in progress: its model, its conversation, and the generation of replies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.commands.chat.keyboard import Keyboard
from llmcli.commands.shared.consume import follow
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.commands.shared.prompt_input import argument_text
from llmcli.commands.shared.token_report import explain, read_attention
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.records import SettingsRecord
from llmcli.conversations.tree import Node
from llmcli.engine import Conversation, Event, Finish, Interruption, SamplingParams, Step
from llmcli.engine.reply.thinking import ThinkingApart, thought_and_answer
from llmcli.engine.sampling.params import params_from_json
from llmcli.errors import LlmcliError, UsageError
from llmcli.text.chat.attached_files import with_files
from llmcli.text.chat.prompt import Message, encode_chat
from llmcli.views.terminal import terminal
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.engine import Stats
    from llmcli.loaded_model import LoadedModel
    from llmcli.views.reply.markdown_writer import MarkdownReply
    from llmcli.views.reply.writer import ReplyWriter

# Share of the context from which on the size of each message is shown.
NEARLY_FULL = 0.75


@dataclass(frozen=True)
class ChatModel:
    """The model of a chat with its conversation, sampling settings and chat template."""

    loaded: LoadedModel
    conversation: Conversation
    """Holds the KV cache; its messages are set from the saved conversation before each question."""
    params: SamplingParams
    source: str | None
    """The name or path that loads the model; None is the starter model."""
    template: str | None
    """The name or file of the chat template; None if the user chose none."""
    template_args: Mapping[str, object] = field(default_factory=dict)
    """The variables of the template when the chat began."""


@dataclass(frozen=True)
class SaidReply:
    """A reply in token ids: its prompt's and its own."""

    node: Node
    prompt: tuple[int, ...]
    ids: tuple[int, ...]


class ChatSession:
    """The state of a chat, on which messages and slash commands act."""

    def __init__(
        self,
        chat_model: ChatModel,
        live: LiveConversation,
        report: ReportOptions,
        keyboard: Keyboard,
        load: Callable[[str | None], ChatModel],
        *,
        plain: bool = False,
    ) -> None:
        """`load` loads another model, given its name.

        Replies are drawn as Markdown on a terminal that can redraw, unless `plain`.
        """
        self.chat_model, self.live, self.report, self.keyboard, self.load = chat_model, live, report, keyboard, load
        self.plain = plain
        self.params = chat_model.params
        self.last_stats: Stats | None = None
        self.last_steps: Sequence[Step] = ()
        self._noted: set[str] = set()
        """Notes about prompts that have been shown."""
        self.attached: list[tuple[str, str]] = []
        """Names and texts of the files to send with the next message."""
        self.fit: Callable[[str, int | None], None] = lambda text, after: None
        """Makes room in the context for a message by the user's policy, or raises `PromptTooLongError`."""
        self.leaving = False
        self._prompts: dict[int, tuple[int, ...]] = {}
        """The prompt ids of each reply of this run, by the number of the reply."""
        self._used: tuple[object, int] | None = None
        self.record_settings()

    @property
    def loaded(self) -> LoadedModel:
        """The current model."""
        return self.chat_model.loaded

    @property
    def conversation(self) -> Conversation:
        """The current model's KV cache, chat template and system prompt."""
        return self.chat_model.conversation

    def note(self, message: str) -> None:
        """Write a note, unless --quiet is on."""
        terminal.note(message)

    def say(self, text: str) -> None:
        """Write the answer to a slash command, even with --quiet."""
        terminal.say(text)

    def record_settings(self) -> None:
        """Save the current settings in the conversation's file."""
        self.live.record_settings(
            SettingsRecord(
                self.loaded.name,
                self.chat_model.source,
                self.conversation.system,
                self.chat_model.template,
                dict(self.conversation.template_args),
            )
        )

    def messages(self, to: int | None = None) -> list[Message]:
        """The messages that the model reads before a question after message `to`, without the system prompt."""
        return self.live.tree.messages(to, model=self.loaded.name, vocab_size=self.loaded.tokenizer.vocab_size)

    def prompt(self, text: str, after: int | None = None) -> list[int]:
        """The prompt ids of the question `text` after message `after`."""
        self.conversation.messages = self.messages(after)
        return self.conversation.prompt(text)

    def reply_to(self, text: str, *, after: int | None = None) -> None:
        """Send `text` to the model after message `after`, by default the last, and generate the reply."""
        text = with_files(text, self.attached)
        if after is None:
            pending = self.live.tree.unanswered()
            after = self.live.tree.head if pending is None else pending.after
        self.fit(text, after)
        self.attached.clear()
        # The question is saved before the reply begins, so that it cannot be lost.
        self.answer(self.live.ask(text, after=after))

    def answer(self, question: Node, *, begun: Sequence[int] = (), before: Sequence[Step] = ()) -> None:
        """Generate the reply to `question`; Ctrl-C ends the reply and keeps it.

        `begun` are token ids with which the reply begins, and `before` their steps, as far as known.
        """
        from llmcli.views.terminal.progress import prefill_progress, progress_bar

        conversation, report = self.conversation, self.report
        conversation.messages = self.messages(question.after)
        conversation.replies = self.live.tree.replies
        said = conversation.with_question(question.text)
        recorder = self.live.answer(question, self.loaded.name, conversation.own_params(self.params))
        writer = self._writer()
        known = dict(enumerate(before))
        finish: Finish | None = None

        def known_step(step: Step) -> Step:
            return replace(known[step.index], text=step.text) if step.index in known else step

        def show(event: Event) -> None:
            if isinstance(event, Step):
                recorder.add(event.text, (event.id,))
                event = known_step(event)
            elif isinstance(event, Finish):
                recorder.add(event.text)
            writer.show(apart(event))

        self._name_the_speaker()
        interruption = Interruption()
        # Both under one change of the terminal mode: text typed between two changes would be lost.
        with self.keyboard.without_echo():
            with (
                interruption.catching_ctrl_c(),
                progress_bar(unit="tokens") as progress,
            ):
                events = conversation.ask(
                    question.text,
                    self.params,
                    begun=begun,
                    probabilities=report.probs or report.top > 0,
                    top=report.top,
                    interruption=interruption,
                    progress=prefill_progress(progress),
                )
                recorder.prompt_tokens = len(conversation.asked)
                self._note_once(conversation.notes)
                apart = ThinkingApart(conversation.tokenizer, conversation.start)
                try:
                    steps, finish = follow(events, show)
                finally:
                    # Innermost, so that the reply is saved even if the terminal has been closed.
                    recorder.end("interrupted" if finish is None else finish.reason)
                    writer.close()
            shown_steps = [known_step(step) for step in steps]
            with_attention = read_attention(self.loaded, said, conversation.asked, shown_steps, report)
        if recorder.has_begun:
            self._prompts[self.live.tree.head] = conversation.last_prompt
        self.last_stats = finish.stats
        self.last_steps = with_attention.steps
        self._finished(finish, said=recorder.has_begun)
        self._leave_a_line()
        if with_attention.interrupted:
            self.note("Interrupted; the attention was not read to the end.")
        if with_attention.error is not None:
            raise with_attention.error

    def _name_the_speaker(self) -> None:
        """On a terminal: the model's name above its reply, which sets it apart from the user's messages."""
        if terminal.is_terminal(sys.stdout):
            self.note(f"{self.loaded.name}:")

    def _leave_a_line(self) -> None:
        """On a terminal: a blank line after a reply."""
        if terminal.is_terminal(sys.stdout):
            self.note("")

    def _note_once(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self.note(note)

    def _writer(self) -> ReplyWriter | MarkdownReply:
        if not self.plain and not self.report.probs and terminal.can_draw():
            from llmcli.views.reply.markdown_writer import MarkdownReply

            return MarkdownReply(self.keyboard.cursor)
        from llmcli.views.reply.writer import ReplyWriter

        return ReplyWriter(colored=self.report.probs)

    def _finished(self, finish: Finish, *, said: bool) -> None:
        explain(self.conversation.tokenizer.token_bytes, self.last_steps, self.report)
        if finish.reason == "interrupted" and said:
            self.note("Interrupted; the text so far is kept.")
        elif finish.reason == "interrupted":
            kept = "The reply before is kept." if self.live.tree.unanswered() is None else "/retry asks again."
            self.note(f"Interrupted before the first word. {kept}")
        if finish.reason == "context":
            self.note("The context is full; the reply ends there. /context makes room, /clear starts anew.")
        if self.report.stats:
            self.say_stats()

    def say_stats(self) -> None:
        """Write the cost of the last reply: tokens, times and speed.

        Raises:
            UsageError: there is no reply yet.
        """
        from llmcli.views.reply.stats import stats_line

        if self.last_stats is None:
            raise UsageError("There has been no reply yet.")
        terminal.console_err().print(stats_line(self.last_stats))

    def last_reply(self) -> SaidReply:
        """The last reply of the current branch.

        Raises:
            UsageError: there is none, or it is by another model.
        """
        node = self.live.tree.last_reply()
        if node is None or not node.is_reply:
            raise UsageError("There has been no reply yet.")
        if node.model != self.loaded.name or not node.ids or max(node.ids) >= self.loaded.tokenizer.vocab_size:
            raise UsageError(f"The last reply is by {node.model}, so {self.loaded.name} cannot explain its tokens.")
        return SaidReply(node, self._prompt_of(node), node.ids)

    def thought_and_answer(self) -> tuple[str, str]:
        """The thought and the answer in the last reply.

        Raises:
            UsageError: there is none.
        """
        node = self.live.tree.last_reply()
        if node is None:
            raise UsageError("There has been no reply yet.")
        return thought_and_answer(self.loaded.tokenizer, self._prompt_of(node), node.text)

    def _prompt_of(self, reply: Node) -> tuple[int, ...]:
        prompt = self._prompts.get(reply.n)
        if prompt is None:
            question = self.live.tree.nodes[reply.after]
            prompt = tuple(self.prompt(question.text, question.after))
        return prompt

    def params_of(self, node: Node) -> SamplingParams:
        """The sampling settings of a reply; the current ones if they are not recorded."""
        with suppress(LlmcliError, TypeError, ValueError):
            return params_from_json(node.sampling or {})
        return self.params

    def used(self) -> int:
        """The number of tokens of the conversation in the context."""
        tree = self.live.tree
        state = (tree.head, tree.window, tree.settings, self.loaded.name)
        if self._used is None or self._used[0] != state:
            system = [Message("system", self.conversation.system)] if self.conversation.system else []
            messages = [*system, *self.messages()]
            ids: list[int] = []
            if messages:
                # A template may refuse to begin with a system prompt alone.
                with suppress(LlmcliError):
                    ids = encode_chat(
                        self.loaded.tokenizer,
                        self.conversation.template,
                        messages,
                        template_args=self.conversation.template_args,
                    )
            self._used = state, len(ids)
        return self._used[1]

    def toolbar(self, typed: str) -> str:
        """The toolbar: use of the context, with the tokens `typed` if it is nearly full, speed, and model."""
        from llmcli.views.reply.stats import speed

        used, limit, more = self.used(), self.conversation.engine.context_length, ""
        # A token is seldom shorter than a character, so most messages need not be tokenized.
        if typed and used + len(typed) >= NEARLY_FULL * limit:
            more = f" + {len(self.loaded.tokenizer.encode(typed, add_special_tokens=False))}"
        parts = [f"{used}{more}/{limit} tokens"]
        if self.last_stats is not None and self.last_stats.decode_tokens_per_s is not None:
            parts.append(speed(self.last_stats.decode_tokens_per_s))
        return visible(" · ".join([*parts, self.loaded.name]))

    def change_model(self, chat_model: ChatModel) -> None:
        """Continue the conversation with another model."""
        before = self.conversation
        self.chat_model = chat_model
        self.conversation.system, self.conversation.template_args = before.system, before.template_args
        self.record_settings()

    def change_conversation(self, live: LiveConversation) -> None:
        """Continue another conversation."""
        self.live.close()
        self.live = live
        self._prompts.clear()
        self.last_stats, self.last_steps = None, ()
        settings = live.tree.settings
        if settings is not None:
            self.conversation.system, self.conversation.template_args = settings.system, settings.template_args
        self.record_settings()

    def close(self) -> None:
        """Close the conversation, so that other processes can open it."""
        self.live.close()

    def saved_as(self) -> Path | None:
        """The file of the conversation; None if it is not saved."""
        return self.live.path

    def run(self, messages: Iterator[str], obey: Callable[[str], bool]) -> None:
        """Handle each of `messages`: run it with `obey` if it is a slash command, otherwise answer it."""
        for text in messages:
            try:
                if not obey(text) and (text.strip() or self.attached):
                    self.reply_to(argument_text(text, "The message"))
            except LlmcliError as error:
                # Only this message or command failed; the chat continues.
                terminal.error(str(error))
            except (MemoryError, RuntimeError) as error:
                from llmcli.device import is_out_of_memory

                if not is_out_of_memory(error):
                    raise
                terminal.error("There is not enough memory for that. /clear and /context make room.")
            except KeyboardInterrupt:
                self.note("Interrupted.")
            if self.leaving:
                return
