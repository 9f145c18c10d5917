"""Builds one reply token by token, alone or in a batch: its ids, its text, and why it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llmcli.engine.events import FinishReason
from llmcli.engine.guided.answer_form import AnswerForm
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.reply.text import ReplyText
from llmcli.engine.sampling.params import SamplingParams
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class StopRules:
    """The rules that end every reply of a model, besides the settings of the reply."""

    ids: frozenset[int]
    """Tokens that end a reply and are not part of it."""
    texts: tuple[str, ...]
    """Texts that do the same, for models whose end of a turn is not a single token."""
    context_length: int
    """The most tokens of prompt and reply together."""

    @classmethod
    def of(cls, ids: Collection[int], texts: Sequence[str], context_length: int, vocab_size: int) -> StopRules:
        """The rules for a vocabulary of `vocab_size` tokens, without ids beyond it, which kernels do not accept."""
        return cls(frozenset(stop for stop in ids if 0 <= stop < vocab_size), tuple(texts), context_length)


class ReplyBuilder:
    """Takes the tokens of one reply until one of them, or a limit, ends it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        params: SamplingParams,
        rules: StopRules,
        *,
        begun: Sequence[int] = (),
        start: ReplyStart | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """The reply continues after the tokens `begun`, which count as prompt but are part of its text.

        `start` is where it begins, by default in a text without thoughts. A `constraint`, whose `begin` was called,
        applies to the answer.
        """
        self.ids = [*prompt, *begun]
        """Prompt and reply."""
        self.prompt_tokens = len(self.ids)
        self.count = 0
        """Tokens of the reply so far, including `begun`."""
        self.reason: FinishReason | None = None
        """Why the reply is over; None before that."""
        self.met_stop_token = False
        """Whether a stop token was chosen, which is not part of the reply."""
        self._params, self._rules = params, rules
        self._text = ReplyText(tokenizer, params, stop_texts=rules.texts, start=start, exact=constraint is not None)
        self.form = None if constraint is None else AnswerForm(constraint, tokenizer, self._text)
        """The constraint, applied to the answer only."""

    @property
    def generated_tokens(self) -> int:
        """Tokens of the reply that were generated."""
        return len(self.ids) - self.prompt_tokens

    @property
    def longest(self) -> int:
        """The most tokens that prompt and reply can have. RoPE variants that depend on the length of a text use it."""
        limit, context = self._params.max_tokens, self._rules.context_length
        return context if limit is None else min(context, self.prompt_tokens + limit)

    def push_begun(self, token: int) -> str:
        """The text of the next token of `begun`."""
        self.count += 1
        return self._text.push(token)

    def push(self, token: int | None) -> str | None:
        """Take the next token; return the text that it adds, or None for a stop token."""
        if token is None or token in self._rules.ids:
            self.reason, self.met_stop_token = "stop", True
            return None
        self.ids.append(token)
        self.count += 1
        text = self._text.push(token)
        if self._text.stopped is not None:
            self.reason = self._text.stopped
        elif self.form is not None and self.form.ended:
            self.reason = "stop"
        elif self.generated_tokens == self._params.max_tokens:
            self.reason = "length"
        elif len(self.ids) == self._rules.context_length:
            self.reason = "context"
        return text

    def finish(self) -> str:
        """The reply is over: return text that was held back and is part of it after all."""
        return self._text.finish()
