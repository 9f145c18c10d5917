"""Causal tracing: which states carry the answer from a subject to the end of the text (Meng et al. 2022, section 2.1).

The subject's embeddings are drowned in noise, so that the model no longer knows the answer. Then single states are put
back to what they were without noise; how probable the answer is again says what went through them.

Dimension letters: B noises, T tokens, C hidden size, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from llmcli.api import LoadedModel
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.inspection.hooks import Part, adder, blocks, on_added, on_residual, removed
from llmcli.inspection.values import Token, TokenProb, token_prob, tokens

_NOISE = 3.0
"""Of the noise, in standard deviations of the text's embeddings."""
# Blocks whose output of one kind is put back together: a share of them all, as 10 of 48 in the paper.
_WINDOW_SHARE = 0.2
_PARTS: tuple[Part, ...] = ("feed_forward", "attention")


@dataclass(frozen=True)
class CausalTrace:
    """How probable the answer is when a state is put back: for each token of the text, and each block."""

    tokens: tuple[Token, ...]
    subject: tuple[int, ...]
    """The positions that noise was added to."""
    answer: TokenProb
    """With its probability after the text as it is."""
    corrupted: float
    """Its probability with the noise, and nothing put back."""
    samples: int
    window: int
    hidden: tuple[tuple[float, ...], ...]
    """(T, L): the residual stream after the block put back, at the token."""
    feed_forward: tuple[tuple[float, ...], ...]
    """(T, L): what the feed-forward networks of the blocks around, `window` of them, add at the token."""
    attention: tuple[tuple[float, ...], ...]
    """(T, L): what attention adds there."""


@torch.inference_mode()
def causal_trace(
    loaded: LoadedModel,
    ids: Sequence[int],
    subject: Sequence[int],
    *,
    answer: int | None = None,
    samples: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CausalTrace:
    """Trace the token `answer`, by default the most probable one, from the tokens at `subject`.

    Each number is a mean over `samples` noises. `progress` hears the blocks done and how many there are.

    Raises:
        UsageError: nothing comes after the subject, or there is no subject.
        PromptTooLongError: the text is longer than the model's context.
    """
    if not subject:
        raise UsageError("There is no subject to trace.")
    if len(ids) > loaded.config.context_length:
        raise PromptTooLongError(
            f"The text has {len(ids)} tokens, but the model's context holds {loaded.config.context_length}."
        )
    run = _Runs(loaded, ids, subject, samples, seed)
    probabilities = loaded.logits(ids)[-1, : loaded.tokenizer.vocab_size].float().softmax(-1)
    chosen = int(probabilities.argmax()) if answer is None else answer
    layers = loaded.config.num_layers
    window = max(1, round(_WINDOW_SHARE * layers))
    first = min(subject)
    # Before the subject nothing is drowned, so there is nothing to put back.
    corrupted = float(run.probability(run.corrupted[0], 0, chosen).mean())
    grids = {kind: [[corrupted] * layers for _ in ids] for kind in ("hidden", *_PARTS)}
    for layer in range(layers):
        for at in range(first, len(ids)):
            grids["hidden"][at][layer] = run.with_hidden(layer, at, chosen)
            for part in _PARTS:
                grids[part][at][layer] = run.with_part(part, layer, at, chosen, window)
        if progress is not None:
            progress(layer + 1, layers)
    return CausalTrace(
        tokens=tokens(loaded.tokenizer, ids),
        subject=tuple(subject),
        answer=token_prob(loaded.tokenizer, chosen, float(probabilities[chosen])),
        corrupted=corrupted,
        samples=samples,
        window=window,
        hidden=_frozen(grids["hidden"]),
        feed_forward=_frozen(grids["feed_forward"]),
        attention=_frozen(grids["attention"]),
    )


class _Runs:
    """The clean pass and the drowned ones, which later ones start from in the middle."""

    def __init__(
        self, loaded: LoadedModel, ids: Sequence[int], subject: Sequence[int], samples: int, seed: int
    ) -> None:
        self._loaded, self._samples = loaded, samples
        model = loaded.model
        self.clean, self._added = self._read(lambda: model(torch.tensor([list(ids)], device=model.device)))
        embedding = self.clean[0]  # (1, T, C)
        noise = torch.randn(
            (samples, len(subject), embedding.shape[2]), generator=torch.Generator().manual_seed(seed)
        ).to(embedding.device)
        drowned = embedding.expand(samples, -1, -1).clone()
        drowned[:, list(subject)] += (_NOISE * embedding.float().std() * noise).to(embedding.dtype)
        self.corrupted, _ = self._read(lambda: model.go_on(drowned, 0))
        self.corrupted[0] = drowned

    def probability(self, x: Tensor, first: int, answer: int) -> Tensor:
        """Of the answer, (B,), for residual streams `x` (B, T, C) before block `first`."""
        logits = self._loaded.model.read_out(self._loaded.model.go_on(x, first)[:, -1])
        return logits[:, : self._loaded.tokenizer.vocab_size].float().softmax(-1)[:, answer]

    def with_hidden(self, layer: int, at: int, answer: int) -> float:
        """With the residual stream after block `layer` put back at one token."""
        x = self.corrupted[layer + 1].clone()
        x[:, at] = self.clean[layer + 1][0, at]
        return float(self.probability(x, layer + 1, answer).mean())

    def with_part(self, part: Part, layer: int, at: int, answer: int, window: int) -> float:
        """With what one part of the blocks around `layer` adds put back at one token."""
        start = max(0, layer - window // 2)
        stop = min(len(self._added), layer - window // 2 + window)

        def put_back(index: int, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, at] = self._added[index][part][0, at]
            return output

        every = blocks(self._loaded.model)
        hooks = (
            adder(every[index], part).register_forward_hook(partial(put_back, index)) for index in range(start, stop)
        )
        with removed(hooks):
            return float(self.probability(self.corrupted[start], start, answer).mean())

    def _read(self, compute: Callable[[], Tensor]) -> tuple[list[Tensor], list[dict[Part, Tensor]]]:
        """The residual stream before each block and after the last, and what each block's parts added."""
        layers = self._loaded.config.num_layers
        residuals: list[Tensor] = [torch.empty(0)] * (layers + 1)
        added: list[dict[Part, Tensor]] = [{} for _ in range(layers)]

        def keep(layer: int, x: Tensor) -> None:
            residuals[layer] = x

        def keep_added(index: int, part: Part, x: Tensor) -> None:
            added[index][part] = x

        with _both(self._loaded, keep, keep_added):
            compute()
        return residuals, added


@contextmanager
def _both(
    loaded: LoadedModel, keep: Callable[[int, Tensor], None], keep_added: Callable[[int, Part, Tensor], None]
) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(on_residual(loaded.model, keep))
        stack.enter_context(on_added(loaded.model, keep_added))
        yield


def _frozen(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows))
