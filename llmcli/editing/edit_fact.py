"""Edit a fact: choose the block, compute the rank-one update, and measure its effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch

from llmcli.checkpoint.edits.edit_file import Edit, LayerUpdate, edited
from llmcli.editing.covariance import COMPUTING, GENERATING, TEXTS, Progress, Statistics
from llmcli.editing.evaluation import Measuring, Proof, Questions, answer_probability, log_probabilities_along
from llmcli.editing.mlp_keys import check_layer, editable_layers, subject_keys
from llmcli.editing.paraphrases import (
    CHAT_CONTEXT,
    CONTEXTS,
    HELD_OUT,
    NEIGHBORS,
    UNSEEN_CONTEXTS,
    paraphrases,
    question,
)
from llmcli.editing.prompt import Passage, passage
from llmcli.editing.rome import Update, make_update
from llmcli.errors import UsageError
from llmcli.inspection.core.distributions import kl_divergence
from llmcli.loaded_model import LoadedModel
from llmcli.model import ModelConfig

# Blocks that a sweep tries, as shares of the depth: in ten models ROME's best layers were there.
_DEPTHS = (0.14, 0.2, 0.27)
_NEIGHBORS = 4
_DRIFT_TEXTS = 4
# Makes a drift of 1e-3 count as much as a leak of 0.1: these are the limits that `Proof.problems` allows.
_DRIFT_WEIGHT = 100.0


_COMPARING, _BEFORE, _AFTER = "Comparing the blocks", "Measuring before the edit", "Measuring after the edit"
# About how long each part of the work takes, relative to the others: shares of the processor time with the starter.
_SHARES = {GENERATING: 45.0, COMPUTING: 5.0, _COMPARING: 8.0, _BEFORE: 5.0, _AFTER: 4.0}
_SHARE_OF_A_BLOCK = 11.0


@dataclass(frozen=True)
class Fact:
    """The fact to change, and the texts to test the edit with."""

    prompt: str
    subject: str
    target: str
    paraphrases: tuple[str, ...] = ()
    """Other texts that the new answer should follow; if empty, made from templates."""
    neighbours: tuple[str, ...] = ()
    """Texts whose answer should stay; if empty, the prompt with other subjects whose keys are most similar."""
    asked: tuple[str, ...] = ()
    """Questions for a chat; if empty, made from templates."""


@dataclass(frozen=True)
class EditCandidate:
    """The scores of one tried layer, measured on other texts than those of the proof."""

    layer: int
    steps: int
    loss: float
    length: float
    """Norm of the change, relative to the norm of the network's output before."""
    generality: float
    """Probability of the new answer in contexts that were not optimized for."""
    leakage: float
    """Largest change of a neighbor."""
    drift: float
    """KL divergence on unrelated text, in nats per token."""

    @property
    def score(self) -> float:
        """Higher is better."""
        return self.generality - self.leakage - _DRIFT_WEIGHT * self.drift


@dataclass(frozen=True)
class EditReport:
    """An edit, the layers that were tried, and the measured effects."""

    model: str
    prompt: str
    subject: str
    target: str
    layer: int
    tried: tuple[EditCandidate, ...]
    """Scores of all tried layers; empty if the layer was given."""
    proof: Proof
    problems: tuple[str, ...]


def check_editable(config: ModelConfig, name: str, layer: int | None) -> None:
    """Raise the errors of `make_edit` about the model and the layer, before any weights are read.

    Raises:
        UsageError: there is no such block, or its feed-forward network is a mixture of experts.
        UnsupportedModelError: the model has no dense feed-forward network.
    """
    if layer is None:
        editable_layers(config, name)
    else:
        check_layer(config, name, layer)


def make_edit(
    loaded: LoadedModel,
    model_sha256: str,
    fact: Fact,
    *,
    layer: int | None = None,
    corpus: str | None = None,
    over: Sequence[Edit] = (),
    reply_tokens: int = 24,
    texts: int = TEXTS,
    progress: Progress | None = None,
) -> tuple[Edit, EditReport]:
    """Compute the edit of a fact in block `layer`, or in the best of a few, and measure it; `loaded` is not changed.

    `over` are edits that are already applied. Key statistics come from the text `corpus`, or else from `texts` texts
    that the model generates. `progress` is called with (what is being done, percent of all work, 100).

    Raises:
        UsageError: the prompt does not contain the subject, or the subject is the first token; there is no such layer;
            or the corpus is too short.
        UnsupportedModelError: the model has no dense feed-forward network.
    """
    check_editable(loaded.config, loaded.name, layer)
    passages, essence = _passages(loaded, fact)
    layers = [layer] if layer is not None else _sweep(editable_layers(loaded.config, loaded.name))
    tell = _Plan(progress or (lambda what, done, total: None))
    statistics = Statistics(loaded, model_sha256, corpus, tell, texts=texts)
    tell.begin(statistics.work(layers), layers)
    moments = statistics.second_moments(layers)
    with edited(loaded.model, over):
        updates = [
            make_update(
                loaded,
                at,
                passages,
                essence,
                moments[at],
                progress=partial(tell, _optimizing(at)),
            )
            for at in layers
        ]
        near = () if fact.neighbours and len(layers) == 1 else _nearest(loaded, fact, layers[len(layers) // 2])
        best = updates[0]
        tried: tuple[EditCandidate, ...] = ()
        if len(layers) > 1:
            trial = _Trial(loaded, fact, near[_NEIGHBORS:], statistics.texts()[:_DRIFT_TEXTS])
            tell(_COMPARING, 1, len(updates) + 1)
            for update in updates:
                tried = (*tried, trial.of(update))
                tell(_COMPARING, 1 + len(tried), len(updates) + 1)
            best = max(zip(updates, tried, strict=True), key=lambda pair: pair[1].score)[0]
        made = Edit(loaded.name, model_sha256, fact.prompt, fact.subject, fact.target.strip(), (_layer_update(best),))
        questions = Questions(
            prompt=fact.prompt,
            target=fact.target,
            paraphrases=fact.paraphrases or paraphrases(fact.prompt, fact.subject),
            neighbours=fact.neighbours or near[:_NEIGHBORS],
            unrelated=HELD_OUT,
            asked=fact.asked or (question(fact.prompt, fact.subject),),
            reply_tokens=reply_tokens,
        )
        measuring = Measuring(loaded, questions, partial(tell, _BEFORE))
        measuring.tell = partial(tell, _AFTER)
        with edited(loaded.model, [made]):
            proof = measuring.proof()
    report = EditReport(
        model=loaded.name,
        prompt=fact.prompt,
        subject=fact.subject,
        target=made.target,
        layer=best.layer,
        tried=tried,
        proof=proof,
        problems=proof.problems,
    )
    return made, report


class _Plan:
    """Reports all parts of the work as one, in percent."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ends: dict[str, tuple[float, float]] = {}
        """The shares of all work that are done before and after each part."""

    def begin(self, statistics: Sequence[str], layers: Sequence[int]) -> None:
        """Plan the parts that are needed: of the statistics, and one for each of `layers`."""
        comparing = [_COMPARING] if len(layers) > 1 else []
        parts = [*statistics, *map(_optimizing, layers), *comparing, _BEFORE, _AFTER]
        shares = [_SHARES.get(part, _SHARE_OF_A_BLOCK) for part in parts]
        ends = [end / sum(shares) for end in accumulate(shares, initial=0)]
        self._ends = dict(zip(parts, pairwise(ends), strict=True))
        self._progress(parts[0], 0, 100)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report a part; one that was not planned, because a file of the cache has gone, counts for nothing."""
        start, end = self._ends.get(what, (0.0, 0.0))
        self._progress(what, int(100 * (start + (end - start) * done / total)), 100)


def _optimizing(layer: int) -> str:
    return f"Optimizing block {layer}"


def _layer_update(update: Update) -> LayerUpdate:
    return LayerUpdate(update.layer, update.read.cpu(), update.write.cpu())


def _sweep(dense: Sequence[int]) -> list[int]:
    return sorted({dense[min(round(share * len(dense)), len(dense) - 1)] for share in _DEPTHS})


def _passages(loaded: LoadedModel, fact: Fact) -> tuple[list[Passage], Passage]:
    """The prompt in several contexts, the plain prompt first; and a passage about what the subject is ("X is a")."""
    prompt, subject, target = fact.prompt, fact.subject, fact.target
    found = [passage(loaded, context + prompt, subject, target) for context in CONTEXTS]
    if found[0].subject == 0:
        raise UsageError(
            f'"{subject}" ends on the first token of the text, where models store no knowledge about it. '
            f'Put a word before it, as in "The well-known {prompt}".'
        )
    if loaded.template is not None:
        question = CHAT_CONTEXT.replace("{subject}", subject)
        found.append(passage(loaded, prompt, subject, target, question=question))
    return found, passage(loaded, f"{subject} is a", subject, target)


def _nearest(loaded: LoadedModel, fact: Fact, layer: int) -> tuple[str, ...]:
    """The prompt with other subjects, ordered by the cosine similarity of their keys to this subject's key."""
    others = [name for name in NEIGHBORS if name not in fact.prompt]
    rows = [fact.subject, *others]
    # With a context, since a name alone would often be the first token.
    prompts = [UNSEEN_CONTEXTS[0] + fact.prompt.replace(fact.subject, name) for name in rows]
    passages = [passage(loaded, text, name, fact.target) for text, name in zip(prompts, rows, strict=True)]
    keys = torch.nn.functional.normalize(subject_keys(loaded.model, [layer], passages)[layer], dim=1)
    order = (keys[1:] @ keys[0]).argsort(descending=True).tolist()
    return tuple(fact.prompt.replace(fact.subject, others[index]) for index in order)


class _Trial:
    """Scores an update on texts that the proof does not use."""

    def __init__(
        self, loaded: LoadedModel, fact: Fact, neighbors: Sequence[str], texts: Sequence[Sequence[int]]
    ) -> None:
        self._loaded, self._fact = loaded, fact
        self._contexts = [context + fact.prompt for context in UNSEEN_CONTEXTS]
        self._neighbors = list(neighbors[:_NEIGHBORS])
        self._texts = [text for text in texts if len(text) > 1]
        self._before = self._measure()

    def of(self, update: Update) -> EditCandidate:
        """Apply `update` and score it."""
        made = Edit("", "", self._fact.prompt, self._fact.subject, self._fact.target, (_layer_update(update),))
        with edited(self._loaded.model, [made]):
            generality, first, logprobs = self._measure()
        _, first_before, before = self._before
        return EditCandidate(
            layer=update.layer,
            steps=update.steps,
            loss=update.loss,
            length=update.length,
            generality=generality,
            leakage=max((abs(a - b) for a, b in zip(first, first_before, strict=True)), default=0.0),
            drift=float(kl_divergence(before, logprobs).mean()),
        )

    def _measure(self) -> tuple[float, list[float], torch.Tensor]:
        target = self._fact.target
        likely = [answer_probability(self._loaded, text, target) for text in self._contexts]
        leaked = [answer_probability(self._loaded, text, target) for text in self._neighbors]
        along = [log_probabilities_along(self._loaded, text) for text in self._texts]
        return sum(likely) / len(likely), leaked, torch.cat(along)
