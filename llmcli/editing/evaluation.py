"""Measure an edit: the new answer for the prompt and its paraphrases, neighbor facts, unrelated text, and replies.

Dimension letters: T tokens, V vocabulary of the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.editing.prompt import spaced
from llmcli.engine import SamplingParams, Step
from llmcli.inspection.causal.prompt_ablation import answer_ids
from llmcli.inspection.core.ablation import logprobs_from
from llmcli.inspection.core.distributions import kl_divergence
from llmcli.inspection.evaluation.perplexity import logits_along
from llmcli.loaded_model import LoadedModel
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw

TAKEN = 0.5
"""Minimum probability of the new answer after the prompt, and on average after its paraphrases."""
LEAKED = 0.1
"""Maximum change of a neighbor's own answer, and maximum rise of the new answer there."""
DRIFTED = 1e-3
"""Maximum mean KL divergence on unrelated text, in nats per token."""


@dataclass(frozen=True)
class AnswerChange:
    """The probability of the new answer after a text, before and after the edit."""

    text: str
    before: float
    after: float


@dataclass(frozen=True)
class NeighborFact:
    """A fact that should stay: the model's own answer, and the probabilities of it and of the new answer."""

    text: str
    answer: str
    """The model's first choice before the edit: one token."""
    before: float
    after: float
    target_before: float
    target_after: float

    @property
    def change(self) -> float:
        """The larger of the own answer's change and the new answer's rise."""
        return max(abs(self.after - self.before), self.target_after - self.target_before)


@dataclass(frozen=True)
class GreedyReply:
    """The model's greedy continuation of a raw text, or its reply in a chat."""

    prompt: str
    chat: bool
    before: str
    after: str


@dataclass(frozen=True)
class Proof:
    """The measured effects of an edit."""

    prompt: AnswerChange
    paraphrases: tuple[AnswerChange, ...]
    neighbours: tuple[NeighborFact, ...]
    drift: float
    """KL(before || after) on unrelated text, mean over its tokens, in nats."""
    replies: tuple[GreedyReply, ...]
    target: str

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each limit that the edit violates; empty if there are none."""
        found = []
        if self.prompt.after < TAKEN:
            found.append(
                f"The edit failed: {self.target} follows the prompt with a probability of only {self.prompt.after:.0%}."
            )
        spread = sum(each.after for each in self.paraphrases) / max(len(self.paraphrases), 1)
        if self.paraphrases and spread < TAKEN:
            found.append(f"It does not generalize: after paraphrases the probability is {spread:.0%} on average.")
        worst = max(self.neighbours, key=lambda each: each.change, default=None)
        if worst is not None and worst.change > LEAKED:
            found.append(f'It leaked: "{worst.text}" changed by {worst.change:.2f}.')
        if self.drift > DRIFTED:
            drift, limit = self.drift / math.log(2), DRIFTED / math.log(2)
            found.append(f"It changes unrelated text by {drift:.1e} bits per token; the limit is {limit:.1e}.")
        return tuple(found)


@dataclass(frozen=True)
class Questions:
    """The texts to measure before and after an edit."""

    prompt: str
    target: str
    paraphrases: Sequence[str]
    neighbours: Sequence[str]
    unrelated: Sequence[str]
    asked: Sequence[str]
    """Questions for a chat, used if the model has a chat template."""
    reply_tokens: int


class Measuring:
    """Measures the questions when created and again in `proof`; the caller edits the model in between."""

    def __init__(self, loaded: LoadedModel, questions: Questions, tell: Callable[[int, int], None]) -> None:
        self._loaded, self._questions, self.tell = loaded, questions, tell
        # The neighbors' own answers, before the edit.
        self._answers = [_first_choice(loaded, text) for text in questions.neighbours]
        self._before = self._ask()

    def proof(self) -> Proof:
        """Measure again, and compare with the first measurement."""
        asked, before, after = self._questions, self._before, self._ask()
        neighbours = tuple(
            NeighborFact(text, self._loaded.tokenizer.token_text(answer), *both)
            for text, answer, *both in zip(
                asked.neighbours, self._answers, before.own, after.own, before.leaked, after.leaked, strict=True
            )
        )
        drift = float(kl_divergence(before.unrelated, after.unrelated).mean())
        texts = [(asked.prompt, False), *((text, True) for text in self._chats)]
        return Proof(
            prompt=AnswerChange(asked.prompt, before.prompt, after.prompt),
            paraphrases=tuple(map(AnswerChange, asked.paraphrases, before.paraphrases, after.paraphrases)),
            neighbours=neighbours,
            drift=drift,
            replies=tuple(
                GreedyReply(text, chat, *both)
                for (text, chat), *both in zip(texts, before.replies, after.replies, strict=True)
            ),
            target=asked.target.strip(),
        )

    @property
    def _chats(self) -> Sequence[str]:
        return self._questions.asked if self._loaded.template is not None else ()

    def _ask(self) -> _Measurements:
        loaded, asked = self._loaded, self._questions
        count = 1 + len(asked.paraphrases) + 2 * len(asked.neighbours) + len(asked.unrelated) + 1 + len(self._chats)
        done = 0

        def counted(value: object) -> None:
            nonlocal done
            done += 1
            self.tell(done, count)

        def probability(text: str) -> float:
            value = answer_probability(loaded, text, asked.target)
            counted(value)
            return value

        def own(text: str, answer: int) -> float:
            value = float(_after(loaded, text)[answer])
            counted(value)
            return value

        def reply(ids: Sequence[int]) -> str:
            value = _written(loaded, ids, asked.reply_tokens)
            counted(value)
            return value

        def expected(text: str) -> Tensor:
            value = log_probabilities_along(loaded, loaded.tokenizer.encode(text))
            counted(value)
            return value

        return _Measurements(
            prompt=probability(asked.prompt),
            paraphrases=[probability(text) for text in asked.paraphrases],
            own=[own(text, answer) for text, answer in zip(asked.neighbours, self._answers, strict=True)],
            leaked=[probability(text) for text in asked.neighbours],
            unrelated=torch.cat([expected(text) for text in asked.unrelated]),
            replies=[
                reply(encode_raw(loaded.tokenizer, asked.prompt.rstrip())),
                *(reply(_as_chat(loaded, text)) for text in self._chats),
            ],
        )


@dataclass(frozen=True)
class _Measurements:
    prompt: float
    paraphrases: list[float]
    own: list[float]
    leaked: list[float]
    unrelated: Tensor
    """(T, V) log-probabilities."""
    replies: list[str]


@torch.inference_mode()
def answer_probability(loaded: LoadedModel, text: str, answer: str) -> float:
    """The probability that `text` continues with the whole of `answer`, 0 to 1."""
    prompt = encode_raw(loaded.tokenizer, text.rstrip())
    answered = answer_ids(loaded.tokenizer, spaced(text, answer))
    ids = torch.tensor([[*prompt, *answered]], device=loaded.model.device)
    rows = torch.cat(list(logprobs_from(loaded.model, ids, len(prompt), loaded.tokenizer.vocab_size)), dim=1)
    return float(rows[0].gather(1, ids[0, len(prompt) :, None]).sum().exp())


def log_probabilities_along(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """Log-probabilities (T - 1, V) after each token of a text except the last; float32."""
    return torch.stack([logits.float().log_softmax(-1) for _, logits in logits_along(loaded, ids)])


def _after(loaded: LoadedModel, text: str) -> Tensor:
    """Probabilities (V,) of the token that follows a text."""
    ids = encode_raw(loaded.tokenizer, text.rstrip())
    return loaded.logits(ids)[-1, : loaded.tokenizer.vocab_size].float().softmax(-1)


def _first_choice(loaded: LoadedModel, text: str) -> int:
    return int(_after(loaded, text).argmax())


def _as_chat(loaded: LoadedModel, text: str) -> list[int]:
    assert loaded.template is not None
    return encode_chat(loaded.tokenizer, loaded.template, [Message("user", text)])


def _written(loaded: LoadedModel, ids: Sequence[int], tokens: int) -> str:
    params = SamplingParams(temperature=0, max_tokens=tokens)
    events = loaded.engine().stream(ids, params, probabilities=False)
    return "".join(event.text for event in events if isinstance(event, Step))
