"""ROME: a rank-one update of one matrix that maps a subject's key to a new value (Meng et al. 2022, arXiv:2202.05262).

The key is averaged over several contexts, and the average is used in every place of the formula (Gupta et al. 2024,
R-ROME, arXiv:2403.07175): using a single context's key in one place can collapse the model.

Dimension letters: B passages, T tokens, C hidden size, I neurons, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.editing.mlp_keys import network_of, padded, subject_keys
from llmcli.editing.prompt import Passage
from llmcli.inspection.core.hooks import blocks, on_residual, removed
from llmcli.loaded_model import LoadedModel

STEPS = 25
_RATE = 0.5
_GOOD_ENOUGH = 0.05
_ESSENCE_WEIGHT = 0.0625
_DECAY = 1e-3
_LONGEST = 4.0
"""Maximum norm of the change, relative to the norm of the network's output before."""
_RIDGE = 0.01
"""Added to the diagonal of the second moment, relative to its mean: directions that texts hardly use stay finite."""


@dataclass(frozen=True)
class Update:
    """`write read^T`, to be added to the output projection of block `layer`."""

    layer: int
    read: Tensor
    """(I,), float32."""
    write: Tensor
    """(C,), float32."""
    steps: int
    loss: float
    length: float
    """Norm of the change of the value, relative to the norm of the network's output before."""


def rank_one(key: Tensor, change: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """The update that adds `change` (C,) to the output for `key` (I,), with the least effect on other keys.

    `moment` (I, I) is the uncentered second moment of the keys of ordinary text. Returns read (I,) and write (C,), with
    `read = C^-1 k` and `write = change / (read . k)` (eq. 2 of the paper, for the key's own value).
    """
    size = len(key)
    regular = moment.double() + _RIDGE * moment.diagonal().mean().double() * torch.eye(size, device=moment.device)
    read = torch.linalg.solve(regular, key.double())
    # Only the product of both matters; this scaling keeps both in the range of float32.
    read = read / (read @ key.double())
    return read.float(), change.float()


def make_update(
    loaded: LoadedModel,
    layer: int,
    passages: Sequence[Passage],
    essence: Passage,
    moment: Tensor,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Update:
    """Compute the update of block `layer` that makes the answers follow their passages.

    The first of `passages` is the plain prompt. The distribution after `essence`, a text about what the subject is,
    should stay the same. `progress` is called with (steps done, maximum steps).
    """
    model = loaded.model
    keys = subject_keys(model, [layer], passages)[layer]
    change, steps, loss, length = _optimize_change(loaded, layer, passages, essence, progress)
    read, write = rank_one(keys.mean(0), change, moment)
    return Update(layer, read, write, steps, loss, length)


class _Group:
    """A batch of passages of similar length, run from block `layer` on, since earlier blocks do not change."""

    def __init__(self, loaded: LoadedModel, layer: int, passages: Sequence[Passage]) -> None:
        self._loaded, self._layer = loaded, layer
        model = loaded.model
        self._entering, self.wrote = _enter(loaded, layer, passages)
        self._at = torch.tensor([each.subject for each in passages], device=model.device)
        # Positions that predict the answers' tokens; without an answer, the last position.
        places = [
            (row, len(each.ids) - 1 + index)
            for row, each in enumerate(passages)
            for index in range(max(len(each.answer), 1))
        ]
        self._rows, self._places = torch.tensor(places, device=model.device).T

    def log_probabilities(self, change: Tensor) -> Tensor:
        """Log-probabilities (N, V) at these positions with `change` (C,) added to the network's output."""
        model = self._loaded.model

        def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            added = torch.zeros_like(output)
            added[torch.arange(len(self._at)), self._at] = change.to(output.dtype)
            return output + added

        with removed([blocks(model)[self._layer].mlp.register_forward_hook(add)]):
            x = model.run_from_layer(self._entering, self._layer)[self._rows, self._places]
        logits: Tensor = model.unembed(x)[:, : self._loaded.tokenizer.vocab_size].float()
        return logits.log_softmax(-1)


def _optimize_change(
    loaded: LoadedModel,
    layer: int,
    passages: Sequence[Passage],
    essence: Passage,
    progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, int, float, float]:
    """Optimize the change (C,) of the network's output at the subject; also returns steps, loss and relative norm."""
    groups = [(some, _Group(loaded, layer, some)) for some in _group_by_length(passages)]
    of_essence = _Group(loaded, layer, [replace(essence, answer=())])
    # The plain prompt is the shortest passage, so it is in the first group.
    before = groups[0][1].wrote
    change = torch.zeros(before.shape, device=before.device, requires_grad=True)  # (C,)
    optimizer = torch.optim.Adam([change], lr=_RATE)
    limit = _LONGEST * before.norm()
    known: Tensor | None = None
    best, least = torch.zeros_like(before), float("inf")
    steps = 0
    while True:
        with torch.enable_grad():
            answers = torch.stack([_answer_loss(some, group.log_probabilities(change)) for some, group in groups]).sum()
            now = of_essence.log_probabilities(change)[0]
            known = now.detach() if known is None else known
            forgetting = F.kl_div(now, known, log_target=True, reduction="sum")
            decay = change.norm() / before.norm() ** 2
            loss = answers / len(passages) + _ESSENCE_WEIGHT * forgetting + _DECAY * decay
        if progress is not None:
            progress(steps, STEPS)
        if float(loss.detach()) < least:
            best, least = change.detach().clone(), float(loss.detach())
        if least < _GOOD_ENOUGH or steps == STEPS:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            change *= (limit / change.norm().clamp(min=1e-12)).clamp(max=1)
        steps += 1
    if progress is not None:
        progress(STEPS, STEPS)
    return best, steps, least, float(best.norm() / before.norm())


def _answer_loss(passages: Sequence[Passage], logprobs: Tensor) -> Tensor:
    """Sum over passages of the mean negative log-probability of their answers' tokens, in nats."""
    wanted = torch.tensor([token for each in passages for token in each.answer], device=logprobs.device)
    shares = torch.tensor([1 / len(each.answer) for each in passages for _ in each.answer], device=logprobs.device)
    return -(logprobs.gather(1, wanted[:, None])[:, 0] * shares).sum()


def _group_by_length(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Group passages so that in each group the longest is at most twice as long as the shortest."""
    groups: list[list[Passage]] = []
    for each in sorted(passages, key=lambda each: len(each.ids)):
        if not groups or len(each.ids) > 2 * len(groups[-1][0].ids):
            groups.append([])
        groups[-1].append(each)
    return groups


@torch.no_grad()
def _enter(loaded: LoadedModel, layer: int, passages: Sequence[Passage]) -> tuple[Tensor, Tensor]:
    """The residual stream (B, T, C) before block `layer`, and the network's output (C,) at the first text's subject."""
    model = loaded.model
    kept: list[Tensor] = []
    wrote: list[Tensor] = []
    subject = passages[0].subject

    def keep(at: int, x: Tensor) -> None:
        if at == layer:
            kept.append(x)

    see = network_of(model, layer).register_forward_hook(
        lambda _module, _inputs, output: wrote.append(output[0, subject].float())
    )
    ids = padded([[*each.ids, *each.answer[:-1]] for each in passages], model)
    with on_residual(model, keep), removed([see]):
        model(ids, only_last=True)
    return kept[0], wrote[0]
