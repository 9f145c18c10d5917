"""Hold the answer of a reply to a form, while the thought before it stays free.

vLLM (`reasoning parser` with structured outputs) applies a grammar only after the token that ends the thought, whatever
the prompt; llama.cpp allows a thought before the grammar if the template opens one or the format knows one. Here the
form applies

- from the first token if neither template nor vocabulary marks thoughts, if the prompt closes the thought, or if the
  prompt is a text to continue;
- after the end of the thought if the template opens one;
- from the first token otherwise, except that the model may open a thought with its first token, with the probability
  that the model gives it: then the form applies after the end of that thought.

Nothing else is allowed between the end of the thought and the form, as in vLLM. V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.reply.text import ReplyText
from llmcli.engine.sampling.sampler import Sampler
from llmcli.text.reasoning import PLAIN, ReplyStart
from llmcli.text.reply_start import opening_tokens
from llmcli.text.tokenizer import Tokenizer


class AnswerForm:
    """Applies a `Constraint` to the answer of one reply and leaves its thought free."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, reply: ReplyText) -> None:
        """`constraint.begin` has been called; the caller pushes each chosen token to `reply`."""
        self._constraint, self._reply = constraint, reply
        self._openings = opening_tokens(tokenizer)
        self._applies = self._thought = False

    @property
    def ended(self) -> bool:
        """Whether the answer has the form and no token can follow."""
        return self._applies and self._constraint.ended

    def choose(
        self, logits: Tensor, sampler: Sampler, context: Sequence[int], room: int
    ) -> tuple[Tensor, Tensor, int | None]:
        """Draw the next token, as `Constraint.choose` does; in a thought every token is allowed.

        Raises:
            LlmcliError: no token is allowed, or the thought has left too few tokens for any answer of the form.
        """
        if self._applies:
            return self._constraint.choose(logits, sampler, context, room)
        if self._reply.awaits_answer:
            self._thought = True
            return self._choose_thought(logits, sampler, context)
        if self._thought:
            self._constraint.begin(room, after_thought=True)
        openings = self._openings if self._reply.state == "begin" else ()
        allowed, distribution, token = self._constraint.choose(logits, sampler, context, room, besides=openings)
        self._applies = token not in openings
        return allowed, distribution, token

    def _choose_thought(self, logits: Tensor, sampler: Sampler, context: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        allowed = logits
        while True:
            distribution = sampler.distribution(allowed, context)
            token = sampler.draw(distribution)
            if not self._reply.begins_answer(token):
                return allowed, distribution, token
            # This token would end the thought and begin the answer without a check by the form: draw another.
            refused = torch.tensor([token], device=logits.device)
            allowed = allowed.index_fill(0, refused, -torch.inf)


def form_start(constraint: Constraint, tokenizer: Tokenizer, start: ReplyStart, *, no_thinking: bool) -> ReplyStart:
    """Return the state at the start of a constrained reply: `start`, or plain text without a thought.

    If the prompt opens no thought, the model may open one before the form, except with `no_thinking`, or if the form
    itself can begin with the mark of a thought: then the mark is part of the form.
    """
    marks = [mark for mark, state in tokenizer.thinking.states["begin"].items() if state.startswith("think")]
    if start.state == "begin" and (no_thinking or any(map(constraint.begins_with, marks))):
        return ReplyStart(PLAIN, start.prefill)
    return start
