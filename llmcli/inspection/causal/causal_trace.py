"""Causal tracing: which hidden states carry the answer from a subject to the end of the text (Meng et al. 2022, 2.1).

Noise is added to the subject's embeddings, so that the model no longer predicts the answer. Then single states are
restored to their values without noise; the probability of the answer shows how much of it passes through them.

Dimension letters: B noise samples, T tokens, C hidden size, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from llmcli.errors import PromptTooLongError, UnsupportedModelError, UsageError
from llmcli.inspection.core.hooks import Part, adder, blocks, on_added, on_residual, removed
from llmcli.inspection.core.tokens import Token, TokenProb, token_prob, tokens
from llmcli.loaded_model import LoadedModel
from llmcli.model.cache.branch_cache import BranchCache

_NOISE = 3.0
"""Scale of the noise, in standard deviations of the text's embeddings."""
# Share of all blocks whose attention or feed-forward output is restored together (10 of 48 in the paper).
_WINDOW_SHARE = 0.2
_PARTS: tuple[Literal["feed_forward", "attention"], ...] = ("feed_forward", "attention")
# Tokens per pass: enough to keep the cores busy, few enough for the processor's caches.
_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class CausalTrace:
    """Probability of the answer when one state is restored, for each token of the text and each block."""

    tokens: tuple[Token, ...]
    subject: tuple[int, ...]
    """The positions that noise was added to."""
    answer: TokenProb
    """With its probability without noise."""
    corrupted: float
    """Its probability with noise and nothing restored."""
    samples: int
    window: int
    hidden: tuple[tuple[float, ...], ...]
    """(T, L): with the residual stream after the block restored at the token."""
    feed_forward: tuple[tuple[float, ...], ...]
    """(T, L): with the feed-forward outputs of `window` blocks around it restored at the token."""
    attention: tuple[tuple[float, ...], ...]
    """(T, L): with the attention outputs of these blocks restored."""


@torch.inference_mode()
def causal_trace(
    loaded: LoadedModel,
    ids: Sequence[int],
    subject: Sequence[int],
    *,
    answer: int | None = None,
    samples: int = 5,
    seed: int = 0,
    window_share: float = _WINDOW_SHARE,
    tokens_at_once: int = _TOKENS_AT_ONCE,
    progress: Callable[[int, int], None] | None = None,
) -> CausalTrace:
    """Trace the token `answer`, by default the most probable one, from the tokens at `subject`.

    Each number is a mean over `samples` noise samples. `progress` is called after each layer of a pass with (states
    done, all states), scaled by their share of the work. Attention and feed-forward outputs are restored in windows of
    `window_share` of the blocks. A pass has at most `tokens_at_once` tokens.

    Raises:
        NotFiniteError: the model's output is not a number.
        UsageError: nothing comes after the subject, or there is no subject.
        PromptTooLongError: the text is longer than the model's context.
        UnsupportedModelError: layers remember the text in states.
    """
    if not subject:
        raise UsageError("There is no subject to trace.")
    if loaded.config.has_state:
        raise UnsupportedModelError(
            "A model with recurrent layers cannot be traced: a pass that begins in the middle of the text would need "
            "their state at that place."
        )
    if len(ids) > loaded.config.context_length:
        raise PromptTooLongError(
            f"The text has {len(ids)} tokens, but the model's context holds {loaded.config.context_length}."
        )
    run = _Runs(loaded, ids, subject, samples, seed)
    probabilities = run.clean_logits[: loaded.tokenizer.vocab_size].float().softmax(-1)
    chosen = int(probabilities.argmax()) if answer is None else answer
    layers = loaded.config.num_layers
    window = max(1, round(window_share * layers))
    first = min(subject)
    # Tokens before the subject are not affected by the noise, so restoring them changes nothing.
    corrupted = float(run.answer_probabilities(run.corrupted[layers][:, -1], chosen).mean())
    grids = {kind: [[corrupted] * layers for _ in ids] for kind in ("hidden", *_PARTS)}
    wanted = _variants(layers, window)
    # The work of one variant: the remaining blocks times the remaining tokens.
    all_work = sum((layers - each.start) * (len(ids) - at) for each in wanted for at in range(first, len(ids)))
    work = _Work(all_work, len(wanted) * (len(ids) - first), progress or (lambda done, total: None))
    for at in range(first, len(ids)):
        for some in _batches(wanted, max(1, tokens_at_once // (samples * (len(ids) - at)))):
            found = run.with_variants(some, at, chosen, work.add)
            for variant, probability in zip(some, found, strict=True):
                grids[variant.kind][at][variant.layer] = probability
    return CausalTrace(
        tokens=tokens(loaded.tokenizer, ids),
        subject=tuple(subject),
        answer=token_prob(loaded.tokenizer, chosen, float(probabilities[chosen])),
        corrupted=corrupted,
        samples=samples,
        window=window,
        hidden=_as_tuples(grids["hidden"]),
        feed_forward=_as_tuples(grids["feed_forward"]),
        attention=_as_tuples(grids["attention"]),
    )


@dataclass(frozen=True)
class _Variant:
    """One restoration: a cell of one of the grids."""

    kind: Literal["hidden", "feed_forward", "attention"]
    layer: int
    start: int
    """The first block whose result it changes."""
    stop: int
    """End (exclusive) of the blocks whose output is restored."""


def _variants(layers: int, window: int) -> list[_Variant]:
    """All restorations at one token, sorted by their first block."""
    found = [_Variant("hidden", layer, layer + 1, layer + 1) for layer in range(layers)]
    for part in _PARTS:
        for layer in range(layers):
            start = max(0, layer - window // 2)
            found.append(_Variant(part, layer, start, min(layers, layer - window // 2 + window)))
    return sorted(found, key=lambda variant: variant.start)


def _batches(variants: Sequence[_Variant], count: int) -> Iterator[Sequence[_Variant]]:
    """Batches of `count` variants with neighboring first blocks."""
    return (variants[first : first + count] for first in range(0, len(variants), count))


@dataclass
class _Work:
    """Reports how much of the work is done, as a number of states."""

    _all: int
    _states: int
    _progress: Callable[[int, int], None]
    _done: int = 0

    def add(self, more: int) -> None:
        """Report that `more` work is done."""
        self._done += more
        self._progress(self._states * self._done // self._all, self._states)


class _Runs:
    """The clean pass and the corrupted passes, from which restored passes branch off at a layer and a token."""

    def __init__(
        self, loaded: LoadedModel, ids: Sequence[int], subject: Sequence[int], samples: int, seed: int
    ) -> None:
        self._loaded, self._samples = loaded, samples
        model = loaded.model
        logits: list[Tensor] = []
        self._clean, self._added = self._read(lambda: logits.append(loaded.logits(ids)[-1]))
        self.clean_logits = logits[0]
        """Logits (V,) after the text without noise."""
        embedding = self._clean[0]  # (1, T, C)
        noise = torch.randn(
            (samples, len(subject), embedding.shape[2]), generator=torch.Generator().manual_seed(seed)
        ).to(embedding.device)
        corrupted = embedding.expand(samples, -1, -1).clone()
        corrupted[:, list(subject)] += (_NOISE * embedding.float().std() * noise).to(embedding.dtype)
        self._trunk = model.new_cache(batch=samples, capacity=len(ids))
        self._trunk.begin(len(ids))
        self.corrupted, _ = self._read(lambda: model.run_from_layer(corrupted, 0, cache=self._trunk))
        """(B, T, C) each: the residual stream of the corrupted texts before each block, and after the last."""
        self.corrupted[0] = corrupted

    def answer_probabilities(self, last: Tensor, answer: int) -> Tensor:
        """Probabilities (N,) of the answer, from residual streams (N, C) of the last token after the last block."""
        logits = self._loaded.model.unembed(last)[:, : self._loaded.tokenizer.vocab_size]
        return logits.float().softmax(-1)[:, answer]

    def with_variants(
        self, variants: Sequence[_Variant], at: int, answer: int, work_done: Callable[[int], None]
    ) -> list[float]:
        """The probability of the answer with each variant (ordered by `start`) restored at the token `at`.

        Earlier tokens are those of the corrupted texts in all variants, so each layer computes only the tokens from
        `at` on, for all variants that have begun. `work_done` is called after each layer with that number of tokens.
        """
        model = self._loaded.model
        layers = model.config.num_layers
        begun = 0
        x = self.corrupted[0][:0, at:]  # (variants begun x B, T - at, C)
        for layer in range(variants[0].start, layers + 1):
            joining = [variant for variant in variants[begun:] if variant.start == layer]
            if joining:
                x = torch.cat((x, *(self._entering(variant, at) for variant in joining)))
                begun += len(joining)
            if layer < layers:
                branch = BranchCache(self._trunk, model.config.layers, at)
                with self._restore(variants[:begun], layer, at):
                    x = model.run_from_layer(x, layer, layer + 1, start=at, cache=branch)
                work_done(begun * x.shape[1])
        found = self.answer_probabilities(x[:, -1], answer)
        return [float(each) for each in found.view(len(variants), self._samples).mean(1)]

    def _entering(self, variant: _Variant, at: int) -> Tensor:
        """The residual stream (B, T - at, C) before a variant's first block."""
        x = self.corrupted[variant.start][:, at:]
        if variant.kind == "hidden":
            x = x.clone()
            x[:, 0] = self._clean[variant.start][0, at]
        return x

    @contextmanager
    def _restore(self, variants: Sequence[_Variant], layer: int, at: int) -> Iterator[None]:
        """Replace a block's outputs at token `at` by the clean ones, in the rows of variants that restore them."""
        hooks = []
        for part in _PARTS:
            ends = [variant.stop if variant.kind == part else 0 for variant in variants]
            rows = torch.tensor([end > layer for end in ends]).repeat_interleave(self._samples)
            if not bool(rows.any()):
                continue

            def restore(_module: nn.Module, _inputs: object, output: Tensor, *, part: Part, rows: Tensor) -> Tensor:
                output = output.clone()
                output[rows.to(output.device), 0] = self._added[layer][part][0, at]
                return output

            block = blocks(self._loaded.model)[layer]
            hooks.append(adder(block, part).register_forward_hook(partial(restore, part=part, rows=rows)))
        with removed(hooks):
            yield

    def _read(self, compute: Callable[[], object]) -> tuple[list[Tensor], list[dict[Part, Tensor]]]:
        """Run `compute`; return the residual stream before each block and after the last, and each block's outputs."""
        layers = self._loaded.config.num_layers
        residuals: list[Tensor] = [torch.empty(0)] * (layers + 1)
        added: list[dict[Part, Tensor]] = [{} for _ in range(layers)]

        def keep(layer: int, x: Tensor) -> None:
            residuals[layer] = x

        def keep_added(index: int, part: Part, x: Tensor) -> None:
            added[index][part] = x

        with _record(self._loaded, keep, keep_added):
            compute()
        return residuals, added


@contextmanager
def _record(
    loaded: LoadedModel, keep: Callable[[int, Tensor], None], keep_added: Callable[[int, Part, Tensor], None]
) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(on_residual(loaded.model, keep))
        stack.enter_context(on_added(loaded.model, keep_added))
        yield


def _as_tuples(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows))
