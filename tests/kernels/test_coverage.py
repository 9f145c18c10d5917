"""The kernels refuse fields and values of a configuration that they do not support."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, make_dataclass, replace
from typing import Any

import pytest

from llmcli.kernels.coverage import SupportedFields
from llmcli.kernels.cpu import support as cpu
from llmcli.kernels.cuda import support as cuda
from llmcli.model import ExpertsConfig, LayerConfig, LinearScaling, ModelConfig, RopeConfig, Transformer
from llmcli.model.mixer_config import MambaConfig

EXPERTS = ExpertsConfig(4, 2, 24)
ROPE = RopeConfig(1e4, 8, LinearScaling(2.0))
PLAIN = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2, head_dim=8, context_length=64,
    norm_eps=1e-5, layers=(LayerConfig(ROPE, experts=EXPERTS), LayerConfig(None)),
)  # fmt: skip
KERNELS = pytest.mark.parametrize("kernel", [cpu, cuda], ids=["cpu", "cuda"])


def changed(part: Any, **values: object) -> Any:
    """A copy of a configuration part whose class has one more field, with default 0, set to a value."""
    ((name, value),) = values.items()
    newer = make_dataclass(type(part).__name__, [(name, int, field(default=0))], bases=(type(part),), frozen=True)
    return newer(**{each.name: getattr(part, each.name) for each in fields(part)}, **{name: value})


def with_layer(**changes: Any) -> ModelConfig:
    return replace(PLAIN, layers=(replace(PLAIN.layers[0], **changes), PLAIN.layers[1]))


def in_place_of(part: str, value: int) -> ModelConfig:
    """The plain model with an additional field `slope` in a part of its configuration."""
    layer = PLAIN.layers[0]
    match part:
        case "":
            made: ModelConfig = changed(PLAIN, slope=value)
            return made
        case "norm":
            return replace(PLAIN, norm=changed(PLAIN.norm, slope=value))
        case "layers":
            return replace(PLAIN, layers=(PLAIN.layers[1], changed(layer, slope=value)))
        case "layers.rope":
            return with_layer(rope=changed(ROPE, slope=value))
        case "layers.rope.scaling":
            return with_layer(rope=replace(ROPE, scaling=changed(ROPE.scaling, slope=value)))
        case _:
            return with_layer(experts=changed(EXPERTS, slope=value))


@KERNELS
@pytest.mark.parametrize("part", ["", "norm", "layers", "layers.rope", "layers.rope.scaling", "layers.experts"])
def test_a_new_field_is_refused_unless_it_has_its_default(kernel: Any, part: str) -> None:
    name = f"{part}.slope".removeprefix(".")
    assert kernel.unsupported(in_place_of(part, 1)) == f"the kernel does not support `{name}`"
    assert kernel.unsupported(in_place_of(part, 0)) is None


@pytest.mark.parametrize("field", ["mixer", "beside"])
def test_a_layer_without_attention_is_refused_by_name(field: str) -> None:
    config = with_layer(**{field: MambaConfig(8, 4, 2, 4)})
    assert cuda.unsupported(config) == "the kernel does not support the Mamba"


@KERNELS
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("activation", "swish"),
        ("placement", "middle"),
        ("qk_norm", "half"),
        ("norm.kind", "power"),
        ("layers.experts.score", "tanh"),
    ],
)
def test_a_new_value_is_refused(kernel: Any, path: str, value: Any) -> None:
    match path.split("."):
        case [name]:
            config = replace(PLAIN, **{name: value})
        case ["norm", name]:
            config = replace(PLAIN, norm=replace(PLAIN.norm, **{name: value}))
        case [*_, name]:
            config = with_layer(experts=replace(EXPERTS, **{name: value}))
    assert kernel.unsupported(PLAIN) is None
    assert kernel.unsupported(config) == f"the kernel does not support `{path}` {value!r}"


@KERNELS
def test_a_new_kind_of_part_is_refused(kernel: Any) -> None:
    spiral = make_dataclass("SpiralScaling", ["factor"], frozen=True)(2.0)
    config = with_layer(rope=replace(ROPE, scaling=spiral))
    assert kernel.unsupported(config) == "the kernel does not support `layers.rope.scaling` as SpiralScaling"


@KERNELS
def test_every_listed_field_exists_and_every_size_is_listed(kernel: Any) -> None:
    supported: SupportedFields = kernel.SUPPORTED
    for kind, listed in supported.items():
        assert kind.__module__.startswith("llmcli.model.")
        there = {each.name: each for each in fields(kind)}
        assert set(listed) <= set(there), kind
        sizes = {
            name for name, each in there.items() if each.default is MISSING and each.default_factory is MISSING
        }  # fmt: skip
        assert sizes <= set(listed), kind


def test_a_model_with_an_unsupported_field_gets_no_kernel() -> None:
    from llmcli.kernels.base import NoKernelError
    from llmcli.kernels.cpu.step import CpuStep

    model = Transformer(PLAIN)
    model.config = changed(PLAIN, slope=1)
    with pytest.raises(NoKernelError, match="the kernel does not support `slope`"):
        CpuStep(model)
