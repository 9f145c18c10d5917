"""The record of a reply: everything needed to generate it again, as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch

import llmcli
from llmcli.engine import Finish, SamplingParams, Step
from llmcli.engine.sampling.params import params_from_json
from llmcli.errors import UsageError
from llmcli.inspection.core.tokens import Token
from llmcli.loaded_model import LoadedModel
from llmcli.text.reasoning import ReplyStart

SCHEMA = "llmcli.run/1"
CANDIDATES = 5
"""The number of most probable tokens recorded at each position."""


@dataclass(frozen=True)
class RecordedToken:
    """A generated token, with its log-probability (nats) before temperature and filters."""

    id: int
    text: str
    logprob: float
    sampled_prob: float
    """Probability after temperature and filters."""
    top: Mapping[int, float]
    """Log-probabilities of the most probable tokens at its position, by id."""


@dataclass(frozen=True)
class RunRecord:
    """A reply, and everything needed to generate it again."""

    created: str
    """ISO 8601, UTC."""
    versions: Mapping[str, str]
    model: str
    path: str
    files: Mapping[str, str]
    """SHA-256 of the model's files, by name."""
    device: str
    dtype: str
    weights: str
    """How weights were kept: "stored" (as quantized in the file), "int8", "int4", or "dense" (in `dtype`)."""
    implementation: str
    """The decode path that computed it."""
    settings: SamplingParams
    context_length: int
    prompt: str
    prompt_ids: tuple[int, ...]
    tokens: tuple[RecordedToken, ...]
    text: str
    finish_reason: str
    start: ReplyStart | None = None
    """How the reply began, in a thought or in the answer; None in older records without this field."""
    kv_cache: str = "auto"
    """The value of `--kv-cache`."""


@dataclass(frozen=True)
class Ending:
    """One side of a difference: the token (None: the reply ended), with its log-probabilities."""

    token: Token | None
    logprob: float
    """Log-probability in the replay, nats; for an end, of all stop tokens together."""
    recorded_logprob: float | None
    """Log-probability when recorded; None if it was not among the recorded candidates."""


def recorded(
    loaded: LoadedModel,
    params: SamplingParams,
    files: Mapping[str, str],
    *,
    context_length: int,
    prompt: str,
    prompt_ids: Sequence[int],
    start: ReplyStart,
    steps: Sequence[Step],
    text: str,
    finish: Finish,
) -> RunRecord:
    """Make the `RunRecord` of a reply, whose whole text is `text`, with thoughts and their marks.

    `steps` must have probabilities, and should have candidates.
    """
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
        context_length=context_length,
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
        text=text,
        finish_reason=finish.reason,
        start=start,
        kv_cache="int8" if loaded.config.int8_cache else "auto",
    )


def versions() -> dict[str, str]:
    """Versions of llmcli, torch and Python."""
    return {"llmcli": llmcli.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def as_json(run: RunRecord) -> dict[str, object]:
    """The record as a JSON object."""
    # `dataclasses.asdict` copies only mappings that are dicts; these are.
    return {"schema": SCHEMA, **asdict(run)}


def from_json(value: object) -> RunRecord:
    """Parse a record that `as_json` wrote.

    Raises:
        UsageError: `value` is not such a record.
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
            # In records older than this setting, stop strings ended thoughts too.
            settings=params_from_json({"stop_in_thinking": True, **value["settings"]}),
            context_length=_whole(value["context_length"]),
            prompt_ids=tuple(map(_whole, value["prompt_ids"])),
            tokens=tuple(tokens),
            start=_start(value.get("start")),
            kv_cache=_kv_cache(value.get("kv_cache", "auto")),
        )
    except KeyError as error:
        raise UsageError(f"The recorded run is damaged: it has no {error}.") from None
    except (TypeError, ValueError, AttributeError):
        raise UsageError("The recorded run is damaged: a value in it has the wrong type.") from None


def _kv_cache(value: object) -> str:
    if value not in ("auto", "int8"):
        raise ValueError
    return str(value)


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
    # null stands for -inf, which JSON lacks: the log-probability of an excluded token.
    return -math.inf if value is None else _number(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _text(item) for name, item in value.items()}
