"""`llm bench --speculative`: the gain of speculative decoding, on replies that repeat their prompt and on free ones.

One process generates every reply with and without it, in alternating order (ABBA), so that other load on the machine
affects all arms equally. The replies are the same, except for those sampled with a draft model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmcli.bench.results import in_turn
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.loaded_model import LoadedModel
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw

PLAIN = "plain"
_TOKENS = 128
_STORY = (
    "The lighthouse at Cape Verran was built in 1871 by the engineer Anna Holm, who had studied bridges in Vienna. It "
    "stands 42 metres tall and its lamp can be seen from 30 kilometres away. In 1923 a storm destroyed the keeper's "
    "house, and the keeper, Josef Brand, lived in the tower for eleven months. The light was automated in 1986. Today "
    "the tower is a museum with about 14,000 visitors a year."
)
_CODE = """```python
def read_table(path, separator=","):
    rows = []
    with open(path) as file:
        for line in file:
            cells = line.rstrip("\\n").split(separator)
            rows.append([cell.strip() for cell in cells])
    return rows


def column(rows, index):
    return [row[index] for row in rows if len(row) > index]


def average(values):
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
```"""


@dataclass(frozen=True)
class BenchTask:
    """A kind of reply, with its prompts."""

    name: str
    prompts: tuple[str, ...]
    params: SamplingParams


_GREEDY = SamplingParams(temperature=0, max_tokens=_TOKENS)
TASKS = (
    BenchTask(
        "quote a text",
        (
            f"List the facts in this text, each in the words of the text.\n\n{_STORY}",
            f"Repeat this text word for word, and then say in one sentence what it is about.\n\n{_STORY}",
        ),
        _GREEDY,
    ),
    BenchTask(
        "edit code",
        (
            f"Rename the function `average` to `mean` and print the whole file again.\n\n{_CODE}",
            f"Add a docstring to every function of this file and print the whole file.\n\n{_CODE}",
        ),
        _GREEDY,
    ),
    BenchTask(
        "free chat",
        (
            "Explain why the sky is blue.",
            "Write a short story about a robot who learns to paint.",
            "What should I consider when I buy a bicycle?",
            "Tell me about the history of Rome.",
        ),
        # The default sampling settings, with a seed for the same text each time.
        SamplingParams(seed=1, max_tokens=_TOKENS),
    ),
)


@dataclass(frozen=True)
class MeasuredReply:
    """The measurements of one reply."""

    task: str
    prompt: int
    """Number of the prompt in its task, from 0."""
    arm: str
    """"plain", "lookup" or "draft"."""
    round: int
    """Counted from 1."""
    tokens: int
    """Tokens generated after the first."""
    seconds: float
    """From the first token to the end."""
    passes: float
    """Forward passes of the model for these tokens."""
    proposed: int
    accepted: int
    same: bool
    """Whether it equals the reply of plain decoding to the same prompt in the same round."""


@dataclass(frozen=True)
class Outcome:
    """The result of an arm on one task."""

    task: str
    arm: str
    tokens_per_s: float
    ratio: float
    """Speed relative to plain decoding, by seconds per token: medians over rounds, summed over prompts."""
    least: float
    """The ratio in the worst round."""
    most: float
    """The ratio in the best round."""
    tokens_per_pass: float
    acceptance_rate: float | None
    """None if no tokens were proposed."""
    same: bool
    """Whether every reply equals that of plain decoding."""


def measure(
    loaded: LoadedModel,
    rounds: int,
    *,
    draft: LoadedModel | None,
    threads: int | None,
    tasks: Sequence[BenchTask] = TASKS,
) -> Iterator[MeasuredReply]:
    """Generate all replies, and yield the measurements of each."""
    engines = {
        PLAIN: loaded.engine(threads=threads),
        "lookup": loaded.engine(threads=threads, lookup=True),
        **({} if draft is None else {"draft": loaded.engine(threads=threads, draft=draft)}),
    }
    warm_up = _prompt_ids(loaded, "Hi")
    for engine in engines.values():
        _reply(engine, warm_up, SamplingParams(temperature=0, max_tokens=8))
    for task in tasks:
        for number, prompt in enumerate(task.prompts):
            ids = _prompt_ids(loaded, prompt)
            for round_ in range(1, rounds + 1):
                replies: dict[str, tuple[list[int], float, Finish]] = {}
                for arm in in_turn(list(engines), round_):
                    replies[arm] = _reply(engines[arm], ids, task.params)
                for arm, (tokens, seconds, finish) in replies.items():
                    decoded, per_pass = max(0, len(tokens) - 1), finish.stats.tokens_per_pass
                    yield MeasuredReply(
                        task=task.name,
                        prompt=number,
                        arm=arm,
                        round=round_,
                        tokens=decoded,
                        seconds=seconds,
                        passes=decoded / (per_pass or 1.0),
                        proposed=finish.stats.proposed_tokens,
                        accepted=finish.stats.accepted_tokens,
                        same=tokens == replies[PLAIN][0],
                    )


def reply_count(rounds: int, *, draft: bool, tasks: Sequence[BenchTask] = TASKS) -> int:
    """Number of replies that `measure` generates."""
    return rounds * (3 if draft else 2) * sum(len(task.prompts) for task in tasks)


def outcomes(replies: Sequence[MeasuredReply]) -> tuple[Outcome, ...]:
    """The result of each task and arm, in the order in which they were measured."""
    return tuple(
        _outcome([one for one in replies if (one.task, one.arm) == key], [one for one in replies if one.task == key[0]])
        for key in dict.fromkeys((one.task, one.arm) for one in replies)
    )


def _outcome(own: list[MeasuredReply], of_task: list[MeasuredReply]) -> Outcome:
    plain = [one for one in of_task if one.arm == PLAIN]
    rounds = {one.round for one in own}
    ratios = [_in_round(plain, round_) / _in_round(own, round_) for round_ in sorted(rounds)]
    tokens, proposed = sum(one.tokens for one in own), sum(one.proposed for one in own)
    return Outcome(
        task=own[0].task,
        arm=own[0].arm,
        tokens_per_s=len({one.prompt for one in own}) / _typical(own),
        ratio=_typical(plain) / _typical(own),
        least=min(ratios),
        most=max(ratios),
        tokens_per_pass=tokens / sum(one.passes for one in own),
        acceptance_rate=sum(one.accepted for one in own) / proposed if proposed else None,
        same=all(one.same for one in own),
    )


def _in_round(replies: Sequence[MeasuredReply], round_: int) -> float:
    return sum(_seconds_each(one) for one in replies if one.round == round_)


def _typical(replies: Sequence[MeasuredReply]) -> float:
    """Seconds per token: the median over rounds, summed over prompts."""
    ordered = sorted(replies, key=lambda one: one.prompt)
    return sum(statistics.median(map(_seconds_each, some)) for _, some in groupby(ordered, key=lambda one: one.prompt))


def _seconds_each(reply: MeasuredReply) -> float:
    return reply.seconds / max(1, reply.tokens)


def _prompt_ids(loaded: LoadedModel, prompt: str) -> list[int]:
    if loaded.template is None:
        return encode_raw(loaded.tokenizer, prompt)
    return encode_chat(loaded.tokenizer, loaded.template, [Message("user", prompt)])


def _reply(engine: Engine, ids: Sequence[int], params: SamplingParams) -> tuple[list[int], float, Finish]:
    """Generate a reply; returns its ids, the seconds from its first token to its end, and the last event."""
    reply_ids: list[int] = []
    first = 0.0
    for event in engine.stream(ids, params, probabilities=False):
        if isinstance(event, Step):
            reply_ids.append(event.id)
            first = first or time.perf_counter()
        elif isinstance(event, Finish):
            return reply_ids, time.perf_counter() - first if first else 0.0, event
    raise AssertionError("a reply without an end")
