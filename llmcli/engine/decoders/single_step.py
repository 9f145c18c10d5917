"""One pass per token, with logits on the host: for probabilities, constraints and every sampling filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from llmcli.engine.decoders.token_source import TokenChoice
from llmcli.engine.guided.answer_form import AnswerForm
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefill import PrefillProgress
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler
from llmcli.model.finite import check_logits


class SingleStepDecoder:
    """Chooses each token from the logits of a pass. The other sources take the first token of a reply from it."""

    def __init__(
        self,
        prefix_cache: PrefixCache,
        sampler: Sampler,
        interruption: Interruption,
        *,
        longest: int,
        probabilities: bool = False,
        form: AnswerForm | None = None,
    ) -> None:
        """The text becomes `longest` tokens long at most.

        With `probabilities` or a `form`, which constrains the answer, choices have logits and a distribution.
        """
        self._prefix_cache, self._sampler, self._interruption = prefix_cache, sampler, interruption
        self._longest, self._probabilities, self._form = longest, probabilities, form
        self._prompt_logits: Tensor | None = None

    @property
    def is_first(self) -> bool:
        """Whether the next token is the first of the reply, whose logits come from the prefill."""
        return self._prompt_logits is not None

    def begin(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> None:
        """See `TokenSource`."""
        with self._interruption.computing():
            self._prompt_logits = self._prefix_cache.read(ids, progress)

    def next(self, ids: Sequence[int]) -> TokenChoice:
        """See `TokenSource`."""
        logits, self._prompt_logits = self._prompt_logits, None
        if logits is None:
            with self._interruption.computing():
                logits = self._prefix_cache.read(ids)
        return self.choose(logits, ids)

    def choose(self, logits: Tensor, ids: Sequence[int], draw: Callable[[Tensor], int] | None = None) -> TokenChoice:
        """The token that follows `ids`, whose `logits` (V,) are known.

        `draw` takes a token from the distribution (V,) unless the answer is constrained; by default the sampler does.
        """
        with self._prefix_cache.sampling_threads():
            return choose_token(
                logits,
                ids,
                self._sampler,
                room=self._longest - len(ids),
                form=self._form,
                probabilities=self._probabilities,
                draw=draw,
                greatest=self._prefix_cache.greatest(logits),
            )

    def end(self, ids: Sequence[int]) -> None:
        """See `TokenSource`."""

    def stats(self) -> Mapping[str, Any]:
        """See `TokenSource`."""
        return {}


def choose_token(
    logits: Tensor,
    ids: Sequence[int],
    sampler: Sampler,
    *,
    room: int,
    form: AnswerForm | None = None,
    probabilities: bool = False,
    draw: Callable[[Tensor], int] | None = None,
    greatest: tuple[int, float] | None = None,
) -> TokenChoice:
    """The token that follows `ids`, one of at most `room`, from its `logits` (V,).

    `form`, `probabilities` and `draw` are as for a `SingleStepDecoder`; `greatest` is as for `Sampler.choose`.
    """
    if form is not None:
        # Checked before tokens are masked, since the probabilities of all are shown.
        check_logits(logits)
        allowed, distribution, token = form.choose(logits, sampler, ids, room)
        return TokenChoice(token, "model", logits, distribution, allowed)
    if probabilities or draw is not None:
        distribution = sampler.distribution(logits, ids)
        return TokenChoice((draw or sampler.draw)(distribution), "model", logits, distribution)
    return TokenChoice(sampler.choose(logits, ids, greatest=greatest))
