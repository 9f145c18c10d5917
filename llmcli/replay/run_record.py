"""The record of a reply: all that is needed to generate it again, as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch

import llmcli
from llmcli.api import LoadedModel
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.sampling_params import params_from_json
from llmcli.errors import UsageError
from llmcli.inspection.core.tokens import Token
from llmcli.text.reasoning import ReplyStart

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
    start: ReplyStart | None = None
    """Where the reply began, in a thought or in the answer; None in a run recorded before that was written down."""


@dataclass(frozen=True)
class Ending:
    """One side of a difference: the token, or None where the reply ended, and how probable it was found."""

    token: Token | None
    logprob: float
    """In the replay, nats; of an ending, that of all stop tokens together."""
    recorded_logprob: float | None
    """When it was recorded; None where it was not among the candidates written down."""


def recorded(
    loaded: LoadedModel,
    engine: Engine,
    params: SamplingParams,
    files: Mapping[str, str],
    *,
    prompt: str,
    prompt_ids: Sequence[int],
    start: ReplyStart,
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
        text=start.prefill + "".join(step.text for step in steps) + finish.text,
        finish_reason=finish.reason,
        start=start,
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
            # Before there was such a setting, stop strings ended thoughts too.
            settings=params_from_json({"stop_in_thinking": True, **value["settings"]}),
            context_length=_whole(value["context_length"]),
            prompt_ids=tuple(map(_whole, value["prompt_ids"])),
            tokens=tuple(tokens),
            start=_start(value.get("start")),
        )
    except KeyError as error:
        raise UsageError(f"The recorded run is damaged: it has no {error}.") from None
    except (TypeError, ValueError, AttributeError):
        raise UsageError("The recorded run is damaged: a value in it is of another kind than it should be.") from None


def _start(value: object) -> ReplyStart | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError
    return ReplyStart(_text(value["state"]), _text(value["prefill"]))


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
