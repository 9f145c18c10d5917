"""Needle in a haystack: how well a model finds one fact among many, by the fact's position in the text.

The text is K facts, "The secret word of Alice is apple.", and a question about one of them, the needle. The needle is
placed at several depths (0 %: the first fact, 100 %: the last), after Liu et al. 2023, "Lost in the Middle",
arXiv:2307.03172, section 3, which uses key-value pairs. The answer is scored, not generated: the probability of the
right word among the K words of the text, so that chance is 1/K.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.engine.prefix_cache import PrefixCache
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.loaded_model import LoadedModel
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw
from llmcli.text.trusted_encoding import TextSegment

DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
INTERVAL = "95% confidence range, by percentile bootstrap over the texts"
_RESAMPLES = 10_000

# Common words, so that each is one token in most vocabularies; none is a prefix of another.
_NAMES = (
    "Alice Bob Carol David Emma Frank Grace Henry Jack Karen Leo Maria Nathan Olivia Peter Rachel Simon Thomas Victor "
    "Walter Anna Brian Diana Eric Helen Ivan Julia Kevin Laura Mark Nancy Oscar Paul Rose Samuel Adam Bella Charles "
    "Daniel Elizabeth"
)
_WORDS = (
    "apple bread chair river stone bridge garden window silver candle mountain horse pencil violin carpet rabbit "
    "mirror basket hammer butter ladder tiger piano bottle forest castle lemon engine blanket pepper cotton marble "
    "button rocket camera dragon needle pillow island coffee"
)
NAMES, WORDS = tuple(_NAMES.split()), tuple(_WORDS.split())
_FILLERS = (
    "The train to the coast leaves twice a day.",
    "It rained for most of the afternoon.",
    "Many old houses in the village have green doors.",
    "The market opens early and closes before noon.",
    "Some birds stay here through the whole winter.",
    "A narrow path leads down to the lake.",
    "The library was painted again last summer.",
    "Most visitors come for the music and the food.",
    "The bus was late again this morning.",
    "There is a small museum near the station.",
    "In spring the fields are full of flowers.",
    "The baker has worked there for thirty years.",
    "On clear nights one can see the lights of the harbour.",
    "The road was closed because of the snow.",
    "Children play football behind the school.",
    "The new theatre has room for two hundred people.",
)


@dataclass(frozen=True)
class DepthScore:
    """How well the needle is found at one depth."""

    depth: float
    """Percentage of the other facts that come before the needle, 0 to 100."""
    mean: float
    """Probability of the right word among the K words, mean over seeds."""
    low: float
    high: float
    """Ends of the confidence interval of the mean."""
    accuracy: float
    """Share of seeds in which the right word is the most probable of the K words."""
    probs: tuple[float, ...]
    """The probability for each seed."""


@dataclass(frozen=True)
class NeedleResult:
    """Scores at every depth, from the same texts with only the needle moved."""

    facts: int
    seeds: int
    tokens: float
    """Mean length of a text."""
    chat: bool
    chance: float
    """The score of a random guess, 1/K."""
    interval: str
    """Method of the confidence interval."""
    example: str
    """The end of the first text, before the answer."""
    answer: str
    depths: tuple[DepthScore, ...]
    path: str
    """The implementation that ran."""


def needle(
    loaded: LoadedModel,
    *,
    facts: int = 20,
    seeds: int = 10,
    depths: Sequence[float] = DEPTHS,
    chat: bool = False,
    context_tokens: int = 0,
    readable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> NeedleResult:
    """Ask for one of `facts` facts at each of the `depths` (percent), in `seeds` texts.

    Each seed draws new names, words and their order; the needle is moved through that text. Neutral sentences between
    the facts lengthen it to about `context_tokens`. The confidence interval is the percentile bootstrap (Efron &
    Tibshirani 1993, chapter 13) of 10,000 resamples of the seeds. The fast path runs, or with `readable` the readable
    model.

    Raises:
        NotFiniteError: the model's output is not a number.
        UsageError: a number is out of range, or `chat` without a chat template.
        PromptTooLongError: a text does not fit the model's context.
    """
    _check(loaded, facts, seeds, depths, chat=chat)
    fillers = _filler_count(loaded, facts, context_tokens, chat=chat)
    # Deepest first: the next text then shares all facts before the needle's new place with the cached one.
    order = sorted(range(len(depths)), key=lambda index: -depths[index])
    texts = [_Haystack.drawn(seed, facts, depths[index], fillers) for seed in range(seeds) for index in order]
    prompts = [_prompt_ids(loaded, text, chat=chat) for text in texts]
    words = {word: _word_ids(loaded, word) for word in {word for text in texts for word in text.words}}
    longest = max(map(len, prompts)) + max(map(len, words.values()))
    if longest > loaded.config.context_length:
        raise PromptTooLongError(
            f"The longest text has {longest} tokens, but the model's context holds {loaded.config.context_length}. "
            "Ask for fewer facts or fewer tokens."
        )
    prefix_cache = loaded.prefix_cache(readable=readable)
    probs: list[list[float]] = [[] for _ in depths]
    hits = [0] * len(depths)
    for done, (text, ids) in enumerate(zip(texts, prompts, strict=True)):
        scores = _scores(prefix_cache, ids, [words[word] for word in text.words], longest)
        index = order[done % len(order)]
        probs[index].append(float(scores.softmax(-1)[text.needle]))
        hits[index] += int(scores.argmax()) == text.needle
        if progress is not None:
            progress(done + 1, len(texts))
    return NeedleResult(
        facts=facts,
        seeds=seeds,
        tokens=sum(map(len, prompts)) / len(prompts),
        chat=chat,
        chance=1 / facts,
        interval=INTERVAL,
        example=texts[0].question + " " + texts[0].opening,
        answer=texts[0].words[texts[0].needle],
        depths=tuple(
            DepthScore(depth, sum(found) / seeds, *bootstrap_interval(found), right / seeds, tuple(found))
            for depth, found, right in zip(depths, probs, hits, strict=True)
        ),
        path=prefix_cache.path(),
    )


def bootstrap_interval(values: Sequence[float], *, resamples: int = _RESAMPLES) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the means of `resamples` samples, drawn from `values` with replacement."""
    drawn = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(0))
    means = torch.tensor(values, dtype=torch.float64)[drawn].mean(-1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _check(loaded: LoadedModel, facts: int, seeds: int, depths: Sequence[float], *, chat: bool) -> None:
    if not 2 <= facts <= len(NAMES):
        raise UsageError(f"There can be 2 to {len(NAMES)} facts, not {facts}.")
    if seeds < 2:
        raise UsageError("A confidence interval needs at least 2 seeds.")
    if not depths or not all(0 <= depth <= 100 for depth in depths):
        raise UsageError("Depths are percentages, from 0 (the first fact) to 100 (the last).")
    if chat and loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; leave --chat out.")


@dataclass(frozen=True)
class _Haystack:
    sentences: tuple[str, ...]
    """Facts in order, with the fillers between them."""
    name: str
    words: tuple[str, ...]
    """The words of all facts, in order."""
    needle: int
    """Index of the word that is asked for."""

    @classmethod
    def drawn(cls, seed: int, facts: int, depth: float, fillers: int) -> _Haystack:
        """The text of a seed with its needle at `depth` (percent); the rest is the same for all depths."""
        source = random.Random(seed)
        pairs = list(zip(source.sample(NAMES, facts), source.sample(WORDS, facts), strict=True))
        between = source.sample(_FILLERS, len(_FILLERS))
        place = round(depth / 100 * (facts - 1))
        pairs.insert(place, pairs.pop())
        sentences: list[str] = []
        for index, (name, word) in enumerate(pairs):
            first, last = index * fillers // facts, (index + 1) * fillers // facts
            sentences += [between[number % len(between)] for number in range(first, last)]
            sentences.append(f"The secret word of {name} is {word}.")
        return cls(tuple(sentences), pairs[place][0], tuple(word for _, word in pairs), place)

    @property
    def body(self) -> str:
        return " ".join(self.sentences)

    @property
    def question(self) -> str:
        return f"What is the secret word of {self.name}?"

    @property
    def opening(self) -> str:
        """The beginning of the answer."""
        return f"The secret word of {self.name} is"


def _prompt_ids(loaded: LoadedModel, text: _Haystack, *, chat: bool) -> list[int]:
    if chat and loaded.template is not None:
        message = Message("user", f"{text.body}\n\n{text.question}")
        return encode_chat(loaded.tokenizer, loaded.template, [message], prefill=text.opening)
    return encode_raw(loaded.tokenizer, f"{text.body}\n\nQuestion: {text.question}\nAnswer: {text.opening}")


def _word_ids(loaded: LoadedModel, word: str) -> list[int]:
    return loaded.tokenizer.encode_segments([TextSegment(f" {word}", trusted=False)], continuation=True)


def _filler_count(loaded: LoadedModel, facts: int, context_tokens: int, *, chat: bool) -> int:
    """Number of neutral sentences that lengthen a text to about `context_tokens`."""
    missing = context_tokens - len(_prompt_ids(loaded, _Haystack.drawn(0, facts, 0, 0), chat=chat))
    size = sum(len(loaded.tokenizer.encode(f" {filler}", add_special_tokens=False)) for filler in _FILLERS)
    return max(0, round(missing * len(_FILLERS) / size))


def _scores(
    prefix_cache: PrefixCache, ids: Sequence[int], candidates: Sequence[Sequence[int]], expected: int
) -> Tensor:
    """Log-probabilities of the K candidates after the text `ids`; float64 (K,) on the CPU.

    Only the part after the cached prefix is read; length-dependent RoPE is set for `expected` tokens.
    """
    prefix_cache.begin(ids, expected)
    first = prefix_cache.read_checked(ids).float().log_softmax(-1)
    scores: list[float] = first[[candidate[0] for candidate in candidates]].tolist()
    for index, candidate in enumerate(candidates):
        if len(candidate) > 1:
            text = [*ids, *candidate[:-1]]
            prefix_cache.begin(text, expected)
            # Words with a common prefix may have cached more than the text.
            if prefix_cache.truncate(len(ids)) < len(ids):
                # A layer with a sliding window no longer has the keys of the text's end.
                prefix_cache.read(ids)
            rest = torch.cat([rows.float().log_softmax(-1) for rows in prefix_cache.read_along(text)])
            scores[index] += sum(float(row[token]) for row, token in zip(rest, candidate[1:], strict=True))
    return torch.tensor(scores, dtype=torch.float64)
