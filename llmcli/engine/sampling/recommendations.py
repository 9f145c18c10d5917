"""Sampling settings that a model's makers recommend, used where the user gives none."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from llmcli.engine.sampling.params import SamplingParams
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    class SamplingSettings(TypedDict, total=False):
        """Fields of `SamplingParams` by name."""

        logit_bias: tuple[tuple[int, float], ...]
        repeat_penalty: float
        frequency_penalty: float
        presence_penalty: float
        repeat_last_n: int
        dry_multiplier: float
        dry_base: float
        dry_allowed_length: int
        dry_penalty_last_n: int
        dry_sequence_breakers: tuple[str, ...]
        top_n_sigma: float
        temperature: float
        dynatemp_range: float
        dynatemp_exponent: float
        top_k: int
        typical_p: float
        top_p: float
        min_p: float
        xtc_probability: float
        xtc_threshold: float
        seed: int | None
        max_tokens: int | None
        stop: tuple[str, ...]
        stop_in_thinking: bool


_ASK_FOR_SAMPLING = ("top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "dynatemp_range")


def recommended_params(recommended: Mapping[str, float], given: Mapping[str, Any]) -> SamplingParams:
    """Settings: `given` by field name, else recommended, else our defaults. A seed that is not given is drawn.

    Raises:
        UsageError: a given value makes no sense.
    """
    chosen = {**usable_recommendations(recommended, given), **given}
    # Drawn here, so that it can be shown and the reply reproduced.
    if chosen.get("seed") is None:
        chosen["seed"] = int.from_bytes(os.urandom(4), "little")
    return SamplingParams(**chosen)


def usable_recommendations(recommended: Mapping[str, float], given: Collection[str] = ()) -> dict[str, float]:
    """The recommended settings that can be used, without invalid values.

    `given` names the settings that the user chose. A recommended temperature of 0 is ignored if top-k, top-p, min-p or
    the like is among them: these ask for sampling, and would have no effect at 0.
    """
    sampled = any(name in given for name in _ASK_FOR_SAMPLING)
    return {
        name: value
        for name, value in recommended.items()
        if _makes_sense(name, value) and not (sampled and name == "temperature" and value == 0)
    }


def _makes_sense(name: str, value: float) -> bool:
    """Whether a recommended value is valid; some files have -1 or 0 for "off"."""
    try:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    except UsageError:
        return False
    return True
