"""Inspect a token of the last reply in a chat: `/why N`, `/lens N`, `/attention N`; its thought: `/thought`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.commands.chat.session import ChatSession, SaidReply
from llmcli.commands.chat.slash_command import Command, whole_number
from llmcli.errors import UsageError
from llmcli.views.inspect.readable_difference import TokenProbabilities, difference_note
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

_CANDIDATES = 8


class ReplyInspector:
    """Inspects one token of the last reply by computing the conversation again, without changing the chat."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command("why", self._why, "explain token N of the last reply; without N, its last token", "[N]"),
            Command("lens", self._lens, "what the model would have said after each block", "[N]"),
            Command("attention", self._attention, "what was read to say it", "[N]"),
            Command("thought", self._thought, "what was thought before the last answer"),
        ]

    def _why(self, argument: str) -> None:
        """Show the alternatives with the effect of each sampling filter, the attention, and the heads and neurons."""
        from llmcli.engine.sampling.trace import choices
        from llmcli.inspection.reply_distribution import card_of_reply
        from llmcli.inspection.token_card import inspect_token
        from llmcli.views.inspect.token_card import NOTE, CardView
        from llmcli.views.reply import sampling_trace as choices_view

        session = self._session
        reply, number = self._find(argument)
        ids, at = [*reply.prompt, *reply.ids], len(reply.prompt) + number
        params = session.params_of(reply.node)
        tokenizer = session.loaded.tokenizer
        logits = self._logits(reply, number)
        found = choices(logits, params, ids[:at], tokenizer, top=_CANDIDATES, taken=ids[at])
        self._show(
            choices_view.choice_table(found, ids[at], params, tokenizer.token_bytes),
            f"{choices_view.NOTE} /branch {number} K continues with alternative K instead.",
        )
        with progress_bar(unit="steps") as progress:
            card = inspect_token(session.loaded, ids, at, progress=progress)
        own = card_of_reply(card, logits, tokenizer)
        self._show(CardView(own), NOTE)
        self._note_difference(number, card.token.bytes, own.token.prob, card.token.prob)

    def _lens(self, argument: str) -> None:
        from llmcli.inspection.reply_distribution import lens_of_reply
        from llmcli.inspection.residual.logit_lens import lens
        from llmcli.views.inspect.logit_lens import NOTE, LensView

        reply, number = self._find(argument)
        logits = self._logits(reply, number)
        with progress_bar(unit="tokens") as progress:
            found = lens(
                self._session.loaded,
                [*reply.prompt, *reply.ids],
                [len(reply.prompt) + number - 1],
                follow=[int(logits.argmax())],
                progress=lambda done, total: progress("Reading again", done, total),
            )
        (readable,) = found.lens
        own = lens_of_reply(readable, logits, self._session.loaded.tokenizer)
        self._show(LensView(replace(found, lens=(own,))), NOTE)
        best = readable.layers[-1].top[0]
        self._note_difference(number, best.bytes, float(logits.float().softmax(-1)[best.id]), best.prob)

    def _attention(self, argument: str) -> None:
        from llmcli.inspection.attention.summary import summary
        from llmcli.views.inspect.attention import NOTE, attention_view

        reply, number = self._find(argument)
        with progress_bar(unit="tokens") as progress:
            found = summary(
                self._session.loaded,
                [*reply.prompt, *reply.ids],
                [len(reply.prompt) + number - 1],
                progress=lambda done, total: progress("Reading again", done, total),
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
        with progress_bar(unit="tokens") as progress:
            return session.conversation.engine.next_logits(
                ids,
                prompt=len(reply.prompt),
                progress=lambda done, total: progress("Reading again", done, total),
            )

    def _note_difference(self, number: int, data: bytes, reply: float, readable: float) -> None:
        """Note if the probability of token `number` (bytes `data`) differs between reply and readable model."""
        note = difference_note([TokenProbabilities(number, data, reply, readable)])
        if note is not None:
            self._session.note(note)

    def _find(self, argument: str) -> tuple[SaidReply, int]:
        """The last reply, and the index of the requested token in it.

        Raises:
            UsageError: there is no such token.
        """
        reply = self._session.last_reply()
        number = whole_number(argument or "-1", "the number of a token. Without a number it is the last")
        if not -len(reply.ids) <= number < len(reply.ids):
            raise UsageError(f"There is no token {number}: the last reply has {len(reply.ids)}, numbered from 0.")
        return reply, number % len(reply.ids)

    def _show(self, view: RenderableType, note: str) -> None:
        terminal.console_out().print(view)
        self._session.note(note)
