"""A form for the answer of a reply, where the model may think before it.

vLLM (`reasoning parser` with structured outputs) applies a grammar only after the token that ends the thought, whatever
the prompt; llama.cpp lets a thought come before the grammar if the template opens one or the format knows one. Here the
form holds

- from the first token if neither template nor vocabulary marks thoughts, if the prompt closes the thought, or if the
  text is one to continue;
- after the end of the thought if the template opens one;
- from the first token otherwise, but that token may also be the one with which the model opens a thought, as likely as
  the model finds it: then the form holds after the end of that thought.

Nothing else is allowed between the end of the thought and the form, as in vLLM. V is the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.reply.text import ReplyText
from llmcli.engine.sampling.sampler import Sampler
from llmcli.text.reply_start import opening_tokens
from llmcli.text.tokenizer import Tokenizer


class AnswerForm:
    """Applies a `Constraint` to the answer of one reply and leaves its thought free."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, reply: ReplyText) -> None:
        """`constraint` has begun; `reply` hears of each token after it was chosen."""
        self._constraint, self._reply = constraint, reply
        self._openings = opening_tokens(tokenizer)
        self._holds = self._thought = False

    @property
    def ended(self) -> bool:
        """The answer has the form, and nothing can follow."""
        return self._holds and self._constraint.ended

    def choose(
        self, logits: Tensor, sampler: Sampler, context: Sequence[int], room: int
    ) -> tuple[Tensor, Tensor, int | None]:
        """Draw the next token, as `Constraint.choose` does; in a thought every token may come.

        Raises:
            LlmcliError: none may, or a thought has left too few tokens for any answer of the form.
        """
        if self._holds:
            return self._constraint.choose(logits, sampler, context, room)
        if self._reply.awaits_answer:
            self._thought = True
            return self._choose_thought(logits, sampler, context)
        if self._thought:
            self._constraint.begin(room, after_thought=True)
        openings = self._openings if self._reply.state == "begin" else ()
        allowed, distribution, token = self._constraint.choose(logits, sampler, context, room, besides=openings)
        self._holds = token not in openings
        return allowed, distribution, token

    def _choose_thought(self, logits: Tensor, sampler: Sampler, context: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        allowed = logits
        while True:
            distribution = sampler.distribution(allowed, context)
            token = sampler.draw(distribution)
            if not self._reply.begins_answer(token):
                return allowed, distribution, token
            # The answer must begin with a token that the form allows; a thought can end without one.
            refused = torch.tensor([token], device=logits.device)
            allowed = allowed.index_fill(0, refused, -torch.inf)
