"""The fields of a model's configuration that a kernel supports: an allow-list, so that new fields are refused at first.

A field that a kernel does not support must have its default value, which means that the model does not use it.
Otherwise the kernels would silently ignore a field added to `llmcli.model.config`, and replies would be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeAlias

from llmcli.model.config import ClampedGLU, NormStyle, QueryScaling
from llmcli.model.mixer_config import MixerConfig, mixer_name
from llmcli.model.rope_config import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    YarnScaling,
)

SupportedFields: TypeAlias = Mapping[type, Mapping[str, Collection[object] | None]]
"""For each dataclass of a configuration, the fields that a kernel supports and their values; None: any value."""


def any_value(names: str) -> dict[str, None]:
    """Fields, separated by spaces, that are supported with any value."""
    return dict.fromkeys(names.split())


ROTATIONS: SupportedFields = {
    RopeConfig: any_value("theta rotary_dim scaling float32"),
    LinearScaling: any_value("factor"),
    DynamicScaling: any_value("factor original_context"),
    Llama3Scaling: any_value("factor low_freq_factor high_freq_factor original_context"),
    YarnScaling: any_value("factor original_context beta_fast beta_slow attention_factor truncate"),
    LongRopeScaling: any_value("short long original_context attention_factor long_attention_factor"),
    FrequencyFactors: any_value("divisors"),
}
"""All rotations: kernels read cosines and sines that `llmcli.model.attention.rope` computes."""

SMALL_PARTS: SupportedFields = {
    NormStyle: {"kind": ("rms", "layer"), **any_value("weight bias plus_one round_first")},
    QueryScaling: any_value("beta interval offset"),
    ClampedGLU: any_value("alpha limit"),
}
"""Parts that every kernel supports. `round_first` does not matter, as kernels normalize in float32."""


def why_unsupported(config: object, supported: SupportedFields) -> str | None:
    """Name the first unsupported field, here or in a nested part, as a reason; None: all are supported."""
    return next(_unsupported_fields(config, supported, ""), None)


def _unsupported_fields(part: Any, supported: SupportedFields, path: str) -> Iterator[str]:
    computed = next((supported[kind] for kind in type(part).__mro__ if kind in supported), None)
    if computed is None:
        what = f"the {mixer_name(part)}" if isinstance(part, MixerConfig) else f"`{path}` as {type(part).__name__}"
        yield f"the kernel does not support {what}"
        return
    for field in fields(part):
        value, name = getattr(part, field.name), f"{path}.{field.name}" if path else field.name
        if field.name not in computed:
            if not _is_default(field, value):
                yield f"the kernel does not support {_words(name, value)}"
            continue
        allowed = computed[field.name]
        if allowed is not None and value not in allowed:
            yield f"the kernel does not support `{name}` {value!r}"
        for nested in value if isinstance(value, tuple) else (value,):
            if is_dataclass(nested):
                yield from _unsupported_fields(nested, supported, name)


def _words(name: str, value: object) -> str:
    """The field's name, or that of the network that a layer has instead of attention."""
    return f"the {mixer_name(value)}" if isinstance(value, MixerConfig) else f"`{name}`"


def _is_default(field: Field[Any], value: object) -> bool:
    """Whether the field has its default value, with which a model does not use it."""
    if field.default is not MISSING:
        return bool(value == field.default)
    return field.default_factory is not MISSING and bool(value == field.default_factory())
