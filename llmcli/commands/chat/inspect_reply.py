"""Inspect a token or word of the last reply in a chat: `/why`, `/lens`, `/attention`; its thought: `/thought`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.commands.chat.reply_words import FoundWord, find_word
from llmcli.commands.chat.session import ChatSession, SaidReply
from llmcli.commands.chat.slash_command import Command
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

_CANDIDATES = 8
_READING = "Reading again"


class ReplyInspector:
    """Inspects one token of the last reply by computing the conversation again, without changing the chat."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command(
                "why",
                self._computing(self._why),
                "explain a token or word of the last reply; without, its last token",
                "[N or WORD]",
            ),
            Command(
                "lens",
                self._computing(self._lens),
                "what the model would have said after each block",
                "[N or WORD]",
            ),
            Command("attention", self._computing(self._attention), "what was read to say it", "[N or WORD]"),
            Command("thought", self._thought, "what was thought before the last answer"),
        ]

    def _computing(self, command: Callable[[str], None]) -> Callable[[str], None]:
        """`command`, during which what is typed is not shown, but kept for the next message."""

        def run(argument: str) -> None:
            with self._session.keyboard.without_echo():
                command(argument)

        return run

    def _why(self, argument: str) -> None:
        """Show the alternatives with the effect of each sampling filter, the attention, and the heads and neurons.

        Of a word of several tokens, show the alternatives of each and the rest for the first.
        """
        from llmcli.inspection.reply_distribution import card_of_reply
        from llmcli.inspection.token_card import inspect_token
        from llmcli.views.inspect.token_card import NOTE, CardView

        session = self._session
        reply, numbers = self._find(argument)
        number = numbers[0]
        ids, at = [*reply.prompt, *reply.ids], len(reply.prompt) + number
        tokenizer = session.loaded.tokenizer
        logits = self._logits(reply, number)
        self._show_choices(reply, number, logits)
        for other in numbers[1:]:
            self._show_choices(reply, other, self._logits(reply, other))
        with progress_bar(_READING, unit="tokens") as progress:
            card = inspect_token(
                session.loaded, ids, at, progress=lambda _what, done, total: progress(_READING, done, total)
            )
        own = card_of_reply(card, logits, tokenizer)
        self._show(CardView(own), NOTE)
        self._note_difference(number, card.token.bytes, own.token.prob, card.token.prob)

    def _show_choices(self, reply: SaidReply, number: int, logits: Tensor) -> None:
        """Show what else could have been sampled from `logits` (V,) as token `number` of the reply."""
        from llmcli.engine.sampling.trace import choices
        from llmcli.views.reply.sampling_trace import NOTE, choice_table

        tokenizer, params = self._session.loaded.tokenizer, self._session.params_of(reply.node)
        before, taken = [*reply.prompt, *reply.ids[:number]], reply.ids[number]
        found = choices(logits, params, before, tokenizer, top=_CANDIDATES, taken=taken)
        self._show(
            choice_table(found, taken, params, tokenizer.token_bytes),
            f"{NOTE} /branch {number} K continues with alternative K instead.",
        )

    def _lens(self, argument: str) -> None:
        from llmcli.inspection.reply_distribution import lens_of_reply
        from llmcli.inspection.residual.logit_lens import lens
        from llmcli.views.inspect.logit_lens import NOTE, LensView

        reply, (number, *_) = self._find(argument)
        logits = self._logits(reply, number)
        with progress_bar(_READING, unit="tokens") as progress:
            found = lens(
                self._session.loaded,
                [*reply.prompt, *reply.ids],
                [len(reply.prompt) + number - 1],
                follow=[int(logits.argmax())],
                progress=lambda done, total: progress(_READING, done, total),
            )
        (readable,) = found.lens
        own = lens_of_reply(readable, logits, self._session.loaded.tokenizer)
        self._show(LensView(replace(found, lens=(own,))), NOTE)
        best = readable.layers[-1].top[0]
        self._note_difference(number, best.bytes, float(logits.float().softmax(-1)[best.id]), best.prob)

    def _attention(self, argument: str) -> None:
        from llmcli.inspection.attention.summary import summary
        from llmcli.views.inspect.attention import NOTE, attention_view

        reply, (number, *_) = self._find(argument)
        with progress_bar(_READING, unit="tokens") as progress:
            found = summary(
                self._session.loaded,
                [*reply.prompt, *reply.ids],
                [len(reply.prompt) + number - 1],
                progress=lambda done, total: progress(_READING, done, total),
            )
        self._show(attention_view(found), NOTE)

    def _thought(self, _argument: str) -> None:
        thought, _ = self._session.thought_and_answer()
        if not thought.strip():
            raise UsageError("Nothing was thought before the last answer.")
        self._session.say(thought.strip())

    def _logits(self, reply: SaidReply, number: int) -> Tensor:
        """The logits (V,) from which token `number` of the reply was chosen."""
        session = self._session
        ids = [*reply.prompt, *reply.ids[:number]]
        with progress_bar(_READING, unit="tokens") as progress:
            return session.conversation.engine.next_logits(
                ids,
                prompt=len(reply.prompt),
                progress=lambda done, total: progress(_READING, done, total),
            )

    def _note_difference(self, number: int, data: bytes, reply: float, readable: float) -> None:
        """Note if the probability of token `number` (bytes `data`) differs between reply and readable model."""
        from llmcli.views.inspect.readable_difference import TokenProbabilities, difference_note

        note = difference_note([TokenProbabilities(number, data, reply, readable)])
        if note is not None:
            self._session.note(note)

    def _find(self, argument: str) -> tuple[SaidReply, range]:
        """The last reply, and the numbers of the tokens in it that are asked for: one, or those of a word.

        Raises:
            UsageError: there is no such token or word.
        """
        reply = self._session.last_reply()
        count = len(reply.ids)
        try:
            number = int(argument or "-1")
        except ValueError:
            return reply, self._find_word(argument, reply)
        if not -count <= number < count:
            raise UsageError(
                f"There is no token {number}: the last reply has {count}, numbered from 0. For the word, write it in "
                f'quotes: "{number}".'
            )
        return reply, range(number % count, number % count + 1)

    def _find_word(self, argument: str, reply: SaidReply) -> range:
        """The tokens of a word; say which they are, and how to reach its other tokens and occurrences."""
        found = find_word(argument, [self._session.loaded.tokenizer.token_bytes(token) for token in reply.ids])
        if found is None:
            raise UsageError(
                f"“{argument}” is not in the last reply. Give a word of it, or the number of a token: the reply has "
                f"{len(reply.ids)}, numbered from 0, and /top 1 lists them from the next reply on."
            )
        self._session.say(_about(found))
        return found.tokens

    def _show(self, view: RenderableType, note: str) -> None:
        terminal.console_out().print(view)
        self._session.note(note)


def _about(found: FoundWord) -> str:
    first, last = found.tokens[0], found.tokens[-1]
    sentences = [
        f"“{found.word}” is token {first} of the reply."
        if first == last
        else f"“{found.word}” is tokens {first} to {last} of the reply; what follows the alternatives is of the first."
    ]
    if found.occurrences > 1:
        other = found.occurrence % found.occurrences + 1
        sentences.append(
            f"It is in the reply {found.occurrences} times, and this is number {found.occurrence}; "
            f"/why {found.word} {other} explains number {other}."
        )
    return " ".join(sentences)
