"""Generate a recorded reply again, and compare it with the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmcli.engine import Finish, Interruption, Step
from llmcli.errors import LlmcliError, UsageError
from llmcli.inspection.core.distributions import change
from llmcli.inspection.core.tokens import token
from llmcli.loaded_model import LoadedModel
from llmcli.replay.run_record import Ending, RunRecord, versions


@dataclass(frozen=True)
class Difference:
    """The first position where the replay has another token than the record."""

    index: int
    recorded: Ending
    replayed: Ending
    gap: float
    """Log-probability of the replayed token minus that of the recorded one, both in the replay, nats; may be negative
    if tokens were sampled.
    """


@dataclass(frozen=True)
class Replay:
    """The result of a replay."""

    same: bool
    compared: int
    """Number of tokens that agree, up to the first difference."""
    recorded_tokens: int
    first_difference: Difference | None
    largest_change: float
    """The largest change of the log-probability of an agreeing token, nats."""
    changed: Mapping[str, tuple[str, str]]
    """Files, versions and devices that differ: name -> (recorded, now); "" for what is missing."""


def replay(
    loaded: LoadedModel,
    run: RunRecord,
    files: Mapping[str, str],
    *,
    interruption: Interruption | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Generate the reply of `run` again, as far as it was recorded, and compare; `files` are the model's hashes now.

    `progress` is called with the number of tokens that agree so far, and the number recorded.

    Raises:
        UsageError: the run has tokens that this model does not have.
        LlmcliError: it was interrupted.
    """
    known = (*run.prompt_ids, *(recorded.id for recorded in run.tokens))
    if not all(0 <= each < loaded.tokenizer.vocab_size for each in known):
        raise UsageError(f"The run has tokens that {loaded.name} does not have; it was recorded with another model.")
    engine = loaded.engine(context_length=min(run.context_length, loaded.config.context_length))
    ended = run.finish_reason == "stop"
    replayed: list[int] = []
    changes = [0.0]
    reason = ""
    # If the recording was cut off, there is no next token to compare.
    last = len(run.tokens) + ended
    events = engine.stream(run.prompt_ids, run.settings, probabilities=True, start=run.start, interruption=interruption)
    for event in events:
        if isinstance(event, Finish):
            reason = event.reason
        elif isinstance(event, Step):
            at = len(replayed)
            replayed.append(event.id)
            if at == len(run.tokens) or event.id != run.tokens[at].id:
                break
            changes.append(abs(change(run.tokens[at].logprob, event.logprob or 0.0)))
            if progress is not None:
                progress(len(replayed), len(run.tokens))
            if len(replayed) == last:
                break
    if reason == "interrupted":
        raise LlmcliError(f"Interrupted after {len(replayed)} of {len(run.tokens)} tokens, which were the same so far.")
    agree = len(changes) - 1
    same = agree == len(run.tokens) == len(replayed) and (not ended or reason == "stop")
    now = _described(versions(), loaded, files)
    then = {**_prefixed(run.versions, run.files), "device": run.device, "dtype": run.dtype, "weights": run.weights}
    names = dict.fromkeys((*then, *now))
    return Replay(
        same=same,
        compared=agree,
        recorded_tokens=len(run.tokens),
        first_difference=None
        if same
        else _difference(loaded, run, agree, replayed[agree] if agree < len(replayed) else None),
        largest_change=max(changes),
        changed={name: pair for name in names if len(set(pair := (then.get(name, ""), now.get(name, "")))) == 2},
    )


def _difference(loaded: LoadedModel, run: RunRecord, index: int, replayed: int | None) -> Difference:
    expected = run.tokens[index].id if index < len(run.tokens) else None
    ids = [*run.prompt_ids, *(token.id for token in run.tokens[:index])]
    prefix_cache = loaded.prefix_cache()
    prefix_cache.begin(ids, len(run.prompt_ids) + (run.settings.max_tokens or 0))
    logprobs = prefix_cache.read_checked(ids).float().log_softmax(-1)
    stops = [stop for stop in loaded.stop_ids if stop < len(logprobs)]
    then = {} if expected is None else {**run.tokens[index].top, expected: run.tokens[index].logprob}

    def ending(token_id: int | None) -> Ending:
        if token_id is None:
            return Ending(None, float(logprobs[stops].logsumexp(-1)) if stops else -math.inf, None)
        return Ending(token(loaded.tokenizer, token_id), float(logprobs[token_id]), then.get(token_id))

    before, now = ending(expected), ending(replayed)
    return Difference(index, before, now, change(before.logprob, now.logprob))


def _described(numbers: Mapping[str, str], loaded: LoadedModel, files: Mapping[str, str]) -> dict[str, str]:
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    here = {"device": str(loaded.model.device), "dtype": dtype, "weights": loaded.packing or "dense"}
    return {**_prefixed(numbers, files), **here}


def _prefixed(numbers: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    return {**numbers, **{f"file {name}": digest for name, digest in files.items()}}
