"""A reply written down so that it can be had again, and what differs when it is."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch

import llmcli
from llmcli.api import LoadedModel
from llmcli.engine import Engine, Finish, Interruption, SamplingParams, Step
from llmcli.errors import LlmcliError, UsageError
from llmcli.inspection.core.distributions import change
from llmcli.inspection.core.tokens import Token, token

SCHEMA = "llmcli.run/1"
CANDIDATES = 5
"""How many of the most probable tokens are written down beside each."""


@dataclass(frozen=True)
class RecordedToken:
    """A token that was generated, with its log-probability (nats) in the model's own distribution."""

    id: int
    text: str
    logprob: float
    sampled_prob: float
    """After temperature and filters."""
    top: Mapping[int, float]
    """The most probable tokens in its place and their log-probabilities."""


@dataclass(frozen=True)
class RunRecord:
    """A reply, and all that it takes to have it again."""

    created: str
    """ISO 8601, UTC."""
    versions: Mapping[str, str]
    model: str
    path: str
    files: Mapping[str, str]
    """SHA-256 of the model's files by name."""
    device: str
    dtype: str
    weights: str
    """In few bits as "stored" in the file, or rounded to "int8" or "int4"; "dense": of that dtype."""
    implementation: str
    """Which path computed it."""
    settings: SamplingParams
    context_length: int
    prompt: str
    prompt_ids: tuple[int, ...]
    tokens: tuple[RecordedToken, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Ending:
    """One side of a difference: the token, or None where the reply ended, and how probable it was found."""

    token: Token | None
    logprob: float
    """In the replay, nats; of an ending, that of all stop tokens together."""
    recorded_logprob: float | None
    """When it was recorded; None where it was not among the candidates written down."""


@dataclass(frozen=True)
class Difference:
    """The first place in which a replay says something else."""

    index: int
    recorded: Ending
    replayed: Ending
    gap: float
    """How much more probable the replay finds what it says itself; nats, and negative where chance decided."""


@dataclass(frozen=True)
class Replay:
    """What came of saying it again."""

    same: bool
    compared: int
    """Tokens that agree, up to the first that does not."""
    recorded_tokens: int
    first_difference: Difference | None
    largest_change: float
    """Of the log-probability of a token that agrees, nats."""
    changed: Mapping[str, tuple[str, str]]
    """What is not as it was, files of the model and versions among it: recorded, now. Empty for what is missing."""


def recorded(
    loaded: LoadedModel,
    engine: Engine,
    params: SamplingParams,
    files: Mapping[str, str],
    *,
    prompt: str,
    prompt_ids: Sequence[int],
    prefill: str,
    steps: Sequence[Step],
    finish: Finish,
) -> RunRecord:
    """A reply as a `RunRecord`; its `steps` must have probabilities, and candidates to tell more."""
    return RunRecord(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        model=loaded.name,
        path=str(loaded.source.resolve()),
        files=dict(files),
        device=str(loaded.model.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        weights=loaded.packing or "dense",
        implementation=finish.stats.path,
        settings=params,
        context_length=engine.context_length,
        prompt=prompt,
        prompt_ids=tuple(prompt_ids),
        tokens=tuple(
            RecordedToken(
                step.id,
                loaded.tokenizer.token_text(step.id),
                step.logprob or 0.0,
                step.sampled_prob or 0.0,
                {candidate.id: candidate.logprob for candidate in step.top},
            )
            for step in steps
        ),
        text=prefill + "".join(step.text for step in steps) + finish.text,
        finish_reason=finish.reason,
    )


def versions() -> dict[str, str]:
    """What computes."""
    return {"llmcli": llmcli.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def as_json(run: RunRecord) -> dict[str, object]:
    """The run in terms of JSON."""
    # `dataclasses.asdict` copies mappings only if they are dicts, which these are.
    return {"schema": SCHEMA, **asdict(run)}


def from_json(value: object) -> RunRecord:
    """The run that `as_json` wrote.

    Raises:
        UsageError: `value` is something else.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise UsageError(f"This is not a recorded run: it has no schema {SCHEMA}.")
    try:
        tokens = [
            RecordedToken(
                _whole(entry["id"]),
                _text(entry["text"]),
                _logprob(entry["logprob"]),
                _number(entry["sampled_prob"]),
                {int(name): _logprob(logprob) for name, logprob in entry["top"].items()},
            )
            for entry in value["tokens"]
        ]
        texts = (
            "created",
            "model",
            "path",
            "device",
            "dtype",
            "weights",
            "implementation",
            "prompt",
            "text",
            "finish_reason",
        )
        return RunRecord(
            **{name: _text(value[name]) for name in texts},
            versions=_texts(value["versions"]),
            files=_texts(value["files"]),
            settings=_settings(value["settings"]),
            context_length=_whole(value["context_length"]),
            prompt_ids=tuple(map(_whole, value["prompt_ids"])),
            tokens=tuple(tokens),
        )
    except KeyError as error:
        raise UsageError(f"The recorded run is damaged: it has no {error}.") from None
    except (TypeError, ValueError, AttributeError):
        raise UsageError("The recorded run is damaged: a value in it is of another kind than it should be.") from None


def replay(
    loaded: LoadedModel,
    run: RunRecord,
    files: Mapping[str, str],
    *,
    interruption: Interruption | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Generate the reply of `run` anew, as far as it was recorded, and compare; `files` are the model's hashes now.

    `progress` hears how many of the recorded tokens have been said again.

    Raises:
        UsageError: the prompt has tokens that this model does not have.
        LlmcliError: it was interrupted.
    """
    known = (*run.prompt_ids, *(recorded.id for recorded in run.tokens))
    if not all(0 <= each < loaded.tokenizer.vocab_size for each in known):
        raise UsageError(f"The run has tokens that {loaded.name} does not have; it was recorded with another model.")
    engine = loaded.engine(context_length=min(run.context_length, loaded.config.context_length))
    ended = run.finish_reason == "stop"
    said: list[int] = []
    changes = [0.0]
    reason = ""
    # Where the recording broke off for another reason than the model's, there is no next token to compare.
    most = len(run.tokens) + ended
    for event in engine.stream(run.prompt_ids, run.settings, probabilities=True, interruption=interruption):
        if isinstance(event, Finish):
            reason = event.reason
        elif isinstance(event, Step):
            at = len(said)
            said.append(event.id)
            if at == len(run.tokens) or event.id != run.tokens[at].id:
                break
            changes.append(abs(change(run.tokens[at].logprob, event.logprob or 0.0)))
            if progress is not None:
                progress(len(said), len(run.tokens))
            if len(said) == most:
                break
    if reason == "interrupted":
        raise LlmcliError(f"Interrupted after {len(said)} of {len(run.tokens)} tokens, which were the same so far.")
    agree = len(changes) - 1
    same = agree == len(run.tokens) == len(said) and (not ended or reason == "stop")
    now = _described(versions(), loaded, files)
    then = {**_prefixed(run.versions, run.files), "device": run.device, "dtype": run.dtype, "weights": run.weights}
    names = dict.fromkeys((*then, *now))
    return Replay(
        same=same,
        compared=agree,
        recorded_tokens=len(run.tokens),
        first_difference=None if same else _difference(loaded, run, agree, said[agree] if agree < len(said) else None),
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

    then_said, now_said = ending(expected), ending(replayed)
    return Difference(index, then_said, now_said, change(then_said.logprob, now_said.logprob))


def _described(numbers: Mapping[str, str], loaded: LoadedModel, files: Mapping[str, str]) -> dict[str, str]:
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    here = {"device": str(loaded.model.device), "dtype": dtype, "weights": loaded.packing or "dense"}
    return {**_prefixed(numbers, files), **here}


def _prefixed(numbers: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    return {**numbers, **{f"file {name}": digest for name, digest in files.items()}}


def _settings(value: Mapping[str, object]) -> SamplingParams:
    stop = value["stop"]
    if not isinstance(stop, list):
        raise TypeError
    return SamplingParams(
        repeat_penalty=_number(value["repeat_penalty"]),
        temperature=_number(value["temperature"]),
        top_k=_whole(value["top_k"]),
        top_p=_number(value["top_p"]),
        min_p=_number(value["min_p"]),
        seed=None if value["seed"] is None else _whole(value["seed"]),
        max_tokens=None if value["max_tokens"] is None else _whole(value["max_tokens"]),
        stop=tuple(map(_text, stop)),
    )


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    return float(value)


def _logprob(value: object) -> float:
    # JSON has no -inf, the log-probability of what is ruled out.
    return -math.inf if value is None else _number(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _text(item) for name, item in value.items()}
