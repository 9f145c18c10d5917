"""Multiple choice: the probability of each of several answers to a prompt.

The probability of an answer is the product of those of its tokens, each given the prompt and the tokens before it, at
temperature 1 and without filters. If the answer is a whole reply, the probability that the reply ends after it is one
more factor: "yes" and "yes, but" then exclude each other, and the sum over all texts is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from llmcli.engine.prefix_cache import PrefixCache
from llmcli.errors import LlmcliError, PromptTooLongError, UsageError
from llmcli.inspection.core.tokens import tokens
from llmcli.inspection.evaluation.answer_choices import AnswerChoice, AnswerChoices
from llmcli.loaded_model import LoadedModel


def choose(
    loaded: LoadedModel,
    prompt: Sequence[int],
    answers: Mapping[str, Sequence[int]],
    *,
    whole: bool,
    context_length: int | None = None,
    threads: int | None = None,
    readable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> AnswerChoices:
    """Score `answers` to a `prompt`; `answers` maps each text to the ids of prompt and answer encoded together.

    If a token spans the end of the prompt and the beginning of an answer, scoring starts before that token. With
    `whole`, each answer is a complete reply and must be followed by one of the model's stop tokens. The fast path runs,
    with `threads` as in `LoadedModel.engine`, or with `readable` the readable model. `progress` is called with (tokens
    read, all tokens) of the prompt.

    Raises:
        NotFiniteError: the model's output is not a number.
        UsageError: fewer than two answers, an empty one, two of the same tokens, or, unless `whole`, an answer that is
            a prefix of another and would include it.
        PromptTooLongError: prompt and longest answer do not fit the context.
    """
    if len(answers) < 2:
        raise UsageError("There must be at least two answers to choose from.")
    start = _common(prompt, *answers.values())
    if start == 0:
        raise UsageError("The prompt has no token before the answers. Add text to the prompt.")
    rest = {text: tuple(ids[start:]) for text, ids in answers.items()}
    _check(rest, whole)
    limit = context_length or loaded.config.context_length
    longest = start + max(map(len, rest.values())) + whole
    if longest > limit:
        raise PromptTooLongError(
            f"Prompt and longest answer have {longest} tokens, but the context holds {limit}; nothing was cut."
        )
    ends = loaded.stop_ids if whole else ()
    tree = _Tree(rest.values())
    prefix_cache = loaded.prefix_cache(threads=threads, readable=readable)
    stop_ids = [token for token in ends if token < loaded.tokenizer.vocab_size]
    used = _read_tree(prefix_cache, prompt[:start], tree, stop_ids, longest, progress)
    found = {text: tree.logprob(ids) for text, ids in rest.items()}
    end_logprobs = {text: tree.ends[ids] if whole else None for text, ids in rest.items()}
    totals = {text: found[text] + (end_logprobs[text] or 0.0) for text in rest}
    best = max(totals.values())
    if best == -math.inf:
        raise LlmcliError("The model rules out all of the answers: each has a probability of 0.")
    scale = math.fsum(math.exp(total - best) for total in totals.values())
    choices = [
        AnswerChoice(
            text, math.exp(totals[text] - best) / scale, totals[text], end_logprobs[text], tokens(loaded.tokenizer, ids)
        )
        for text, ids in rest.items()
    ]
    return AnswerChoices(
        choices=tuple(sorted(choices, key=lambda choice: -choice.logprob)),
        covered=min(1.0, math.fsum(map(math.exp, totals.values()))),
        prompt_tokens=len(prompt),
        read_tokens=used,
        path=prefix_cache.path(),
    )


@dataclass
class _Tree:
    """The answers as a prefix tree: `after[prefix]` holds the log-probability of each token that follows it."""

    answers: Iterable[tuple[int, ...]]
    after: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)
    ends: dict[tuple[int, ...], float] = field(default_factory=dict)
    """For each answer, the log-probability that the reply ends after it."""

    def __post_init__(self) -> None:
        # Sorted, each answer's longest shared prefix is with the answer before it.
        self.answers = sorted(self.answers)
        for ids in self.answers:
            self.ends[ids] = 0.0
            for length, token in enumerate(ids):
                self.after.setdefault(ids[:length], {})[token] = 0.0

    def note(self, prefix: tuple[int, ...], logits: Tensor, stop_ids: Sequence[int]) -> None:
        """Store the log-probabilities of the tokens that follow `prefix`, from `logits` (V,)."""
        logprobs = logits.float().log_softmax(-1)
        following = self.after.get(prefix, {})
        following |= zip(following, logprobs[list(following)].tolist(), strict=True)
        if prefix in self.ends and stop_ids:
            self.ends[prefix] = float(logprobs[list(stop_ids)].logsumexp(-1))

    def logprob(self, ids: tuple[int, ...]) -> float:
        return math.fsum(self.after[ids[:length]][token] for length, token in enumerate(ids))


def _read_tree(
    prefix_cache: PrefixCache,
    prompt: Sequence[int],
    tree: _Tree,
    stop_ids: Sequence[int],
    longest: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Read the prompt and every branch of the tree once; return the number of tokens read."""
    # Expect the length `longest` for all answers, so that length-dependent RoPE is the same for all.
    prefix_cache.begin(prompt, longest)
    tree.note((), prefix_cache.read_checked(prompt, progress), stop_ids)
    used = len(prompt)
    held: tuple[int, ...] = ()
    for ids in tree.answers:
        needed = ids if stop_ids else ids[:-1]
        if held[: len(needed)] == needed:
            continue
        held = needed
        text = [*prompt, *needed]
        kept = prefix_cache.begin(text, longest)
        used += len(text) - kept
        if kept < len(prompt):
            # A layer with a sliding window no longer has the keys of the prompt's end.
            prefix_cache.read(prompt)
            kept = len(prompt)
        length = kept - len(prompt)
        for rows in prefix_cache.read_along(text):
            for logits in rows:
                length += 1
                tree.note(needed[:length], logits, stop_ids)
    return used


def _common(*sequences: Sequence[int]) -> int:
    """Length of the prefix that all sequences share."""
    count = 0
    for same in zip(*sequences, strict=False):
        if len(set(same)) > 1:
            break
        count += 1
    return count


def _check(answers: Mapping[str, tuple[int, ...]], whole: bool) -> None:
    by_ids: dict[tuple[int, ...], str] = {}
    for text, ids in answers.items():
        if not ids:
            raise UsageError(f"The answer {text!r} adds nothing to the prompt.")
        if ids in by_ids:
            raise UsageError(f"The answers {by_ids[ids]!r} and {text!r} have the same tokens.")
        by_ids[ids] = text
    if whole:
        return
    for ids, text in by_ids.items():
        for length in range(1, len(ids)):
            if ids[:length] in by_ids:
                raise UsageError(
                    f"{text!r} begins with the answer {by_ids[ids[:length]]!r}: the probability of the shorter "
                    "answer would include the longer one, since a raw text may continue. Add to the shorter one what "
                    "follows it."
                )
