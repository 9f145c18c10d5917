"""Which filters are on, settings as JSON, and fast paths that accept only filters they support."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import asdict, dataclass, fields, replace

import pytest

from llmcli.engine import SamplingParams
from llmcli.engine.sampling import recommendations
from llmcli.engine.sampling.params import params_from_json
from llmcli.errors import UsageError
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.cuda.sampler import DeviceChoice
from llmcli.views.terminal.to_json import plain
from tests.support.models.random_models import random_model
from tests.support.sampling_filters import FILTERS


@dataclass(frozen=True)
class Later(SamplingParams):
    """The settings with a filter that is added later."""

    tail_free: float = 1.0


def test_filters_that_are_off_are_not_active() -> None:
    assert SamplingParams().active == {"temperature", "top_k", "top_p"}
    assert SamplingParams(temperature=0, top_k=0, top_p=1.0, seed=3, stop=("x",)).active == {"temperature"}
    # Settings of a filter that is off have no effect.
    assert SamplingParams(xtc_threshold=0.3, dry_base=2.0, repeat_last_n=64).active == SamplingParams().active


def test_every_filter_is_active_when_it_is_on() -> None:
    for settings in FILTERS.values():
        assert SamplingParams(**settings).active == SamplingParams().active | settings.keys()  # type: ignore[arg-type]


def test_a_fast_path_refuses_filters_it_does_not_support() -> None:
    step = CpuStep(random_model("llama"), threads=1)
    known = [SamplingParams(), SamplingParams(temperature=0), SamplingParams(min_p=0.1)]
    assert all(step.capabilities.chooses(params) and DeviceChoice.chooses(params) for params in known)
    assert DeviceChoice.chooses(SamplingParams(repeat_penalty=1.2))
    for settings in FILTERS.values():
        params = SamplingParams(**settings)  # type: ignore[arg-type]
        for each in (params, replace(params, temperature=0)):
            assert not step.capabilities.chooses(each) and not DeviceChoice.chooses(each)


def test_a_filter_that_is_added_later_is_refused_by_default() -> None:
    step = CpuStep(random_model("llama"), threads=1)
    assert step.capabilities.chooses(Later()) and DeviceChoice.chooses(Later())
    later = Later(tail_free=0.9)
    assert "tail_free" in later.active
    assert not step.capabilities.chooses(later) and not DeviceChoice.chooses(later)


def test_settings_survive_json() -> None:
    changed = {name: value for settings in FILTERS.values() for name, value in settings.items()}
    params = SamplingParams(**changed, stop=("a", "b"), seed=5, dry_sequence_breakers=("x",))  # type: ignore[arg-type]
    assert params_from_json(json.loads(json.dumps(asdict(params)))) == params
    # JSON has no -inf: records store it as null.
    assert params_from_json(json.loads(json.dumps(plain(params), allow_nan=False))) == params


def test_settings_missing_in_older_records_have_their_defaults() -> None:
    old = {"repeat_penalty": 1.0, "temperature": 1, "top_k": 5, "top_p": 0.9, "min_p": 0.0, "seed": None, "stop": ["x"]}
    assert params_from_json(old) == SamplingParams(temperature=1.0, top_k=5, top_p=0.9, stop=("x",))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "1"},
        {"top_k": 1.5},
        {"stop": "x"},
        {"stop": [1]},
        {"stop_in_thinking": 1},
        {"logit_bias": [[1]]},
        {"frobs": 1},
    ],
)
def test_json_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        params_from_json(wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("repeat_last_n", -2),
        ("dry_multiplier", -0.1),
        ("dry_base", 0.5),
        ("dry_allowed_length", 0),
        ("dry_penalty_last_n", -2),
        ("dry_sequence_breakers", ("",)),
        ("top_n_sigma", -1.0),
        ("dynatemp_range", -0.5),
        ("dynatemp_exponent", 0.0),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.1),
        ("logit_bias", ((1, math.inf),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((-1, 1.0),)),
    ],
)
def test_invalid_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name.replace('_', '-')} must be "):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_every_setting_can_be_given_by_name() -> None:
    source = inspect.getsource(recommendations)
    for each in fields(SamplingParams):
        assert f"        {each.name}: {each.type}\n" in source


def test_filters_come_before_other_settings() -> None:
    names = [each.name for each in fields(SamplingParams)]
    assert names[-4:] == ["seed", "max_tokens", "stop", "stop_in_thinking"]
