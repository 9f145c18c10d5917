"""Settings for choosing tokens and ending a reply, validated when they are created."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from llmcli.errors import UsageError

SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
"""Texts that end repetitions for DRY by default: those of llama.cpp."""
# Settings that are not filters: they do not affect which tokens can be chosen. All others are filters.
_NOT_FILTERS = ("seed", "max_tokens", "stop", "stop_in_thinking")
# Values that turn a filter off, where that is not the default.
_OFF = {"temperature": None, "top_k": 0, "top_p": 1.0}
# Settings that have an effect only if one of these is on.
_BELONGS_TO = {
    "repeat_last_n": ("repeat_penalty", "frequency_penalty", "presence_penalty"),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_penalty_last_n": ("dry_multiplier",),
    "dry_sequence_breakers": ("dry_multiplier",),
    "dynatemp_exponent": ("dynatemp_range",),
    "xtc_threshold": ("xtc_probability",),
}


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one reply.

    Filters apply in the order of the fields. llama.cpp has the same order except that it applies the temperature last:
    here typical-p, top-p, min-p and XTC work on probabilities after the temperature. The result of the other filters is
    the same either way. Raises `UsageError` on creation if a value makes no sense.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids of tokens and what is added to their logits; -inf rules a token out."""
    repeat_penalty: float = 1.0
    """Divides the logits of tokens already in the context (multiplies negative ones): Keskar et al. 2019,
    arXiv:1909.05858, eq. 1 of section 4.1. 1 is off."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each time that it is in the context. 0 is off."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of the tokens in the context. 0 is off."""
    repeat_last_n: int = -1
    """How many of the last tokens of prompt and reply the three penalties look at. -1 is all, 0 none."""
    dry_multiplier: float = 0.0
    """The penalty for a token that would continue a repetition of `dry_allowed_length` tokens (DRY). 0 is off."""
    dry_base: float = 1.75
    """The penalty is multiplied by this for each further token of the repetition."""
    dry_allowed_length: int = 2
    """Shorter repetitions have no penalty."""
    dry_penalty_last_n: int = -1
    """How many of the last tokens are searched for repetitions. -1 is all, 0 none."""
    dry_sequence_breakers: tuple[str, ...] = SEQUENCE_BREAKERS
    """A repetition begins anew after a token with one of these texts in it."""
    top_n_sigma: float = 0.0
    """Keep tokens whose logit is at most this many standard deviations below the best (Tang et al. 2024,
    arXiv:2411.07641). 0 is off."""
    temperature: float = 0.8
    """Divides the logits. 0 always takes the most probable token."""
    dynatemp_range: float = 0.0
    """Let the temperature follow the entropy, between `temperature` minus and plus this. 0 is off."""
    dynatemp_exponent: float = 1.0
    """Above 1 the temperature stays low for longer, below 1 it rises sooner."""
    top_k: int = 40
    """Keep the k most probable tokens. 0 is off."""
    typical_p: float = 1.0
    """Keep the most typical tokens that together reach this probability (Meister et al. 2022, arXiv:2202.00666).
    1 is off."""
    top_p: float = 0.95
    """Keep the fewest tokens that together reach this probability (Holtzman et al. 2020, arXiv:1904.09751). 1: off."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the best (Nguyen et al. 2024, arXiv:2407.01082). 0: off."""
    xtc_probability: float = 0.0
    """The share of tokens for which the most probable choices are left out (XTC). 0 is off."""
    xtc_threshold: float = 0.1
    """Left out then: of the tokens with at least this probability, all but the least probable."""
    seed: int | None = None
    """The same seed gives the same text on the same machine; None draws one."""
    max_tokens: int | None = None
    """The most tokens to generate; None: up to the end of the context."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; they are not part of it. They apply to the answer only."""
    stop_in_thinking: bool = False
    """Whether `stop` applies to thoughts too."""

    def __post_init__(self) -> None:
        for name, valid, needed in (
            ("repeat_penalty", self.repeat_penalty > 0, "more than 0"),
            ("frequency_penalty", True, "a finite number"),
            ("presence_penalty", True, "a finite number"),
            ("repeat_last_n", self.repeat_last_n >= -1, "-1 (all) or more"),
            ("dry_multiplier", self.dry_multiplier >= 0, "0 or more"),
            ("dry_base", self.dry_base >= 1, "1 or more"),
            ("dry_allowed_length", self.dry_allowed_length > 0, "1 or more"),
            ("dry_penalty_last_n", self.dry_penalty_last_n >= -1, "-1 (all) or more"),
            ("dry_sequence_breakers", all(self.dry_sequence_breakers), "not empty"),
            ("top_n_sigma", self.top_n_sigma >= 0, "0 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("dynatemp_range", self.dynatemp_range >= 0, "0 or more"),
            ("dynatemp_exponent", self.dynatemp_exponent > 0, "more than 0"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("typical_p", 0 < self.typical_p <= 1, "more than 0 and at most 1"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("xtc_probability", 0 <= self.xtc_probability <= 1, "from 0 to 1"),
            ("xtc_threshold", 0 <= self.xtc_threshold <= 1, "from 0 to 1"),
            ("seed", self.seed is None or 0 <= self.seed < 1 << 63, "from 0 to 2^63 - 1"),
            ("max_tokens", self.max_tokens is None or self.max_tokens > 0, "1 or more"),
            ("stop", all(self.stop), "not empty"),
        ):
            value = getattr(self, name)
            if not valid or (isinstance(value, float) and not math.isfinite(value)):
                raise UsageError(f"{name.replace('_', '-')} must be {needed}, not {value}.")
        for token, bias in self.logit_bias:
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise UsageError(
                    f"logit-bias must be the ID of a token and a finite number or -inf, not {token} and {bias}."
                )

    @cached_property
    def active(self) -> frozenset[str]:
        """The names of the filters that are on, the temperature always among them.

        A kernel that samples lists the filters it supports and takes only replies that use no others: so no kernel
        ignores a filter that is added later.
        """
        on = {each.name for each in fields(self) if each.name not in _NOT_FILTERS and self._is_on(each.name)}
        idle = {name for name, owners in _BELONGS_TO.items() if on.isdisjoint(owners)}
        return frozenset(on - idle)

    def _is_on(self, name: str) -> bool:
        off = _OFF[name] if name in _OFF else type(self).__dataclass_fields__[name].default
        return bool(getattr(self, name) != off)


def params_from_json(value: Mapping[str, object]) -> SamplingParams:
    """`SamplingParams` from the JSON of their `dataclasses.asdict`.

    A missing setting has its default: older records have fewer settings.

    Raises:
        TypeError, ValueError: a value has the wrong type, or a setting is unknown.
        UsageError: a value makes no sense.
    """
    known = {each.name: each.type for each in fields(SamplingParams)}
    if unknown := value.keys() - known.keys():
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    return SamplingParams(**{name: _value(name, str(known[name]), item) for name, item in value.items()})  # type: ignore[arg-type]


def _value(name: str, kind: str, value: object) -> object:
    if name == "logit_bias":
        pairs = [_list(pair) for pair in _list(value)]
        return tuple((_number(token, int), _bias(bias)) for token, bias in pairs)
    if kind.startswith("tuple"):
        return tuple(_text(text) for text in _list(value))
    if kind == "bool":
        if not isinstance(value, bool):
            raise TypeError(value)
        return value
    if kind.endswith("None") and value is None:
        return None
    return _number(value, int if kind.startswith("int") else float)


def _bias(value: object) -> float:
    # JSON has no -inf.
    return -math.inf if value is None else float(_number(value, float))


def _number(value: object, kind: type[int] | type[float]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise TypeError(value)
    return kind(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(value)
    return list(value)
