"""Every key of `config.json` that `transformers` reads: read here too, refused by name, or known to be harmless."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.families.bias_keys import without_unwanted_biases
from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.families.registry import FAMILIES
from llmcli.checkpoint.huggingface.config import family_config, model_config, mtp_layer_range
from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.checkpoint.load_weights import load_weights
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.config_changes import BUILT, VALUES
from tests.support.models.config_changes import SIZES as SIZE_KEYS
from tests.support.models.harmless_keys import READ_OF, RECORDED, why_harmless
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES as SPANNING_CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import SIZES, edit_config, random_ids, save, tiny_model, untrained
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(40)
CASES = {**SPANNING_CASES, **NEWER, **RECURRENT}
NEWER_TYPES = {case[0] for case in (*NEWER.values(), *RECURRENT.values())} - {
    case[0] for case in SPANNING_CASES.values()
}
# One case for each family: the variant that uses most keys.
_CHOSEN = {
    "gpt_neox": "pythia, parallel",
    "phi3": "phi-3, longrope, long",
    "smollm3": "smollm 3, windows",
    "granitemoehybrid": "granite 4",
}
FAMILY_CASES = {model_type: case for case, (model_type, _) in reversed(CASES.items())} | _CHOSEN
# Together they cover all norms, windows, experts, clamps and biases. The other families take minutes.
_QUICK = {"llama", "gemma2", "gpt2", "mixtral", "gpt_oss", "llama4_text", "cohere"}
QUICK_FIRST = [
    model_type if model_type in _QUICK else pytest.param(model_type, marks=pytest.mark.slow)
    for model_type in FAMILY_CASES
]
# Newer families with variants whose keys no other family has.
OWN_VARIANTS = {
    "afmoe", "apertus1p5_text", "axk1", "cohere2_moe", "hyperclovax", "laguna", "phimoe",
    "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "jamba", "kimi_linear", "mamba", "mamba2", "nemotron_h",
    "lfm2", "lfm2_moe", "lfm3", "qwen4_exp_text",
    "aria_text", "codegen", "dbrx", "ernie4_5", "ernie4_5_moe", "exaone_moe", "falcon", "glm4_moe", "glm4_moe_lite",
    "mimo_v2_flash", "modernbert-decoder", "deepseek_v32", "deepseek_v4", "glm_moe_dsa",
    "gpt_bigcode", "gpt_neox_japanese", "gptj", "granitemoe_swa", "hy_v3", "mellum", "mpt", "opt", "persimmon",
    "sarvam_mla", "sarvam_moe", "xlstm",
}  # fmt: skip
WITH_VARIANTS = [
    model_type if model_type in _QUICK else pytest.param(model_type, marks=pytest.mark.slow)
    for model_type in FAMILY_CASES
    if model_type not in NEWER_TYPES or model_type in OWN_VARIANTS
]
# Read in the source of text models, but about images, or the name of a method only.
_NOT_OF_TEXT = {
    "get_text_config",
    "text_config",
    "vision_config",
    "audio_config",
    "image_token_id",
    "num_channels",
    "projector_hidden_size",
    "patch_size",
    "audio_soft_tokens_per_image",
    "audio_token_id",
    "gradient_clipping",
    "standardize",
    "use_clipped_linears",
    "video_token_id",
    "vision_soft_tokens_per_image",
}
# If these are absent, other keys and rules decide.
_LISTED = ("layer_types", "no_rope_layers", "moe_layers", "num_nextn_predict_layers")
_OTHER_CLASSES = re.compile(
    "Vision|Audio|Multimodal|Gemma4Model|Gemma3nModel|Projector|MultiModal|Conditional|Classif|QuestionAns|DoubleHeads|Summary|MTP"
)


class RecordedKeys(dict[str, object]):
    """A configuration that records the keys that are read."""

    def __init__(self, values: dict[str, object]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: object = None) -> object:
        self.asked.add(key)
        return super().get(key, default)


@functools.cache
def keys_of_class(model_type: str) -> frozenset[str]:
    """The keys of the configuration class and those that the model's source reads."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    cls = CONFIG_MAPPING[model_type]
    # Some families have a configuration only, and the model of another.
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(cls, cls)
    source = _text_model_source(model.__module__.replace("configuration_", "modeling_"))
    read = re.findall(r"\bconfig\.(\w+)", source) + re.findall(r'(?:get|has)attr\([\w.]*config, "(\w+)"', source)
    names = {field.name for field in dataclasses.fields(cls)} | set(cls.attribute_map)
    return frozenset((names | set(read)) - _NOT_OF_TEXT)


def _text_model_source(module: str) -> str:
    """The source of the classes and functions of a module, without those of other tasks."""
    # Parsed once: `inspect.getsource` would parse the whole file for each class.
    whole = inspect.getsource(importlib.import_module(module))
    lines = whole.splitlines(keepends=True)
    return "".join(
        "".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.parse(whole).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not _OTHER_CLASSES.search(node.name)
    )


def keys_asked(model_type: str) -> set[str]:
    """The keys that this program reads from the family's configurations."""
    from transformers import AutoConfig

    asked = {alias for aliases in FAMILIES[model_type].aliases.values() for alias in aliases}
    for case_type, overrides in CASES.values():
        if case_type != model_type:
            continue
        config = AutoConfig.for_model(model_type, **{**SIZES, **overrides})
        full = json.loads(config.to_json_string(use_diff=False))
        ruled = {key: value for key, value in full.items() if key not in _LISTED}
        if model_type == "granitemoehybrid":
            ruled["layer_types"] = full["layer_types"]
        ruled |= {"tie_word_embeddings": True}
        if "num_kv_shared_layers" in ruled:
            # The rule may give these layers a type that no earlier layer has.
            ruled |= {"num_kv_shared_layers": 0}
        if "use_sliding_window" in ruled:
            ruled |= {"use_sliding_window": True, "sliding_window": 4}
        for values, head in ((full, ["lm_head.weight"]), (ruled, [])):
            recorded = RecordedKeys(values)
            description = family_config(ConfigKeys(recorded, Path("config.json")))
            model_config(description, TensorNames(head, {}))
            without_unwanted_biases({}, description.keys, description.family.biases)
            mtp_layer_range(description)
            description.family.scales(description.keys)
            asked |= recorded.asked
    return asked


@pytest.mark.parametrize("model_type", FAMILY_CASES)
def test_every_key_of_transformers_is_accounted_for(model_type: str) -> None:
    import transformers

    asked = keys_asked(model_type)
    unknown = sorted(key for key in keys_of_class(model_type) - asked if why_harmless(model_type, key) is None)
    newer = tuple(map(int, transformers.__version__.split(".")[:2])) > tuple(map(int, RECORDED.split(".")))
    if unknown and newer:
        pytest.skip(f"transformers {transformers.__version__} has keys that the lists do not know yet: {unknown}")
    assert not unknown
    assert model_type not in NEWER_TYPES or bool(own_keys(model_type, BUILT)) == (model_type in OWN_VARIANTS)
    # A key that is read must not be in the list of harmless keys.
    assert not [key for key in asked if why_harmless(model_type, key) is not None]


def test_every_key_that_is_read_has_a_changed_case() -> None:
    for model_type in FAMILY_CASES:
        changing = {key for key in keys_of_class(model_type) if why_harmless(model_type, key) is None}
        # `num_experts` and similar keys have aliases in some families.
        assert not changing - set(VALUES) - SIZE_KEYS, model_type


def reference(folder: Path, state: dict[str, Tensor]) -> Tensor | None:
    """Logits of `transformers`; None where it refuses the configuration, or the weights no longer fit."""
    from transformers import AutoConfig

    try:
        model = untrained(AutoConfig.from_pretrained(folder))
        # A switched-on bias is missing from the weights: use zeros.
        left = model.load_state_dict(state, strict=False)
        with torch.inference_mode():
            for name in left.missing_keys:
                if not name.endswith(".bias"):
                    return None
                model.get_parameter(name).zero_()
            logits: Tensor = model(torch.tensor([IDS])).logits[0]
    except Exception:
        return None
    return logits if bool(logits.isfinite().all()) else None


def ours(folder: Path) -> Tensor:
    model = load_weights(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([IDS]))[0]
    return logits


def changes(model_type: str, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in sorted(own_keys(model_type, VALUES)):
        yield from ((key, value) for value in VALUES[key] if key not in config or config[key] != value)


def own_keys(model_type: str, keys: dict[str, tuple[Any, ...]]) -> set[str]:
    """The keys of a family among `keys`; of a newer one, only those that no family with all options has."""
    named = keys_of_class(model_type) | {"rope_scaling", "rope_theta", "partial_rotary_factor", "layer_types"}
    if model_type in NEWER_TYPES:
        common = keys_of_class("llama") | keys_of_class("deepseek_v3") | keys_of_class("qwen2_moe")
        named -= common - READ_OF.get(model_type, frozenset())
    return set(named & set(keys))


@pytest.mark.parametrize("model_type", QUICK_FIRST)
def test_changed_keys_change_logits_as_in_transformers(tmp_path: Path, model_type: str) -> None:
    model = tiny_model(model_type, **CASES[FAMILY_CASES[model_type]][1])
    folder = save(model, tmp_path)
    saved = (folder / "config.json").read_text()
    config, state = json.loads(saved), model.state_dict()
    compared, wrong = 0, list[object]()
    for key, value in changes(model_type, config):
        changed = {**config, key: value}
        if key in ("rope_scaling", "rope_theta", "partial_rotary_factor"):
            # The form of older files.
            changed.pop("rope_parameters", None)
        (folder / "config.json").write_text(json.dumps(changed))
        theirs = reference(folder, state)
        if theirs is None:
            continue
        compared += 1
        try:
            found = ours(folder)
        except CheckpointError as error:
            # Refused by key, by meaning, or because tensors contradict it, which transformers ignores.
            if not any(words in str(error) for words in (key, "later tokens", "recurrent", "does not describe")):
                wrong.append((key, value, str(error)))
            continue
        if (difference := float((found - theirs).abs().max() / theirs.abs().max())) > 3e-5:
            wrong.append((key, value, difference))
    assert not wrong
    assert compared > (0 if model_type in NEWER_TYPES else 8)


@pytest.mark.parametrize("model_type", WITH_VARIANTS)
def test_variants_give_the_logits_of_transformers(tmp_path: Path, model_type: str) -> None:
    overrides = CASES[FAMILY_CASES[model_type]][1]
    wrong: list[object] = []
    for key in sorted(own_keys(model_type, BUILT)):
        for number, value in enumerate(BUILT[key]):
            try:
                model = tiny_model(model_type, **{**overrides, key: value})
                with torch.inference_mode():
                    theirs = model(torch.tensor([IDS])).logits[0]
            except Exception:
                # transformers cannot build this model.
                continue
            folder = save(model, tmp_path / f"{key}{number}")
            try:
                difference = float((ours(folder) - theirs).abs().max() / theirs.abs().max())
            except CheckpointError as error:
                # Refused by key, or because the tensors have another size (head_dim of GPT-NeoX).
                if key not in str(error) and "rows are needed" not in str(error):
                    wrong.append((key, value, str(error)))
                continue
            if difference > 3e-5:
                wrong.append((key, value, difference))
    assert not wrong


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "part of a head": ("llama 2, grouped", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "part of a head, within": (
        "qwen3",
        {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        r"rope_scaling.partial_rotary_factor = 0.25",
    ),
    "rotations by layer": (
        "llama 2, grouped",
        {"rope_parameters": {"full_attention": {"rope_theta": 7.0}}},
        "rope_parameters = .*all its layers share one RoPE",
    ),
    "one rotation of two": (
        "gemma 3, linear on full layers",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
        "rope_parameters = .*its own RoPE parameters",
    ),
    "old name of a rotation": (
        "olmo 3, yarn on full layers",
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        r"rope_scaling.type = 'linear'",
    ),
    "another program's factor": (
        "qwen2, yarn",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 2.0}},
        r"rope_scaling.attn_factor = 2.0",
    ),
    "factors of a sparse mixture": (
        "phi-3, longrope, long",
        {"rope_scaling": {**CASES["phi-3, longrope, long"][1]["rope_parameters"], "long_mscale": 1.2}},
        r"rope_scaling.long_mscale = 1.2",
    ),
    "layers of other kinds": (
        "phi-3, window",
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        "layer_types = .*sliding_window alone decides",
    ),
    "norms of phi": ("phi-2", {"qk_layernorm": True}, "qk_layernorm = True"),
    "attention to another text": ("gpt-2", {"add_cross_attention": True}, "add_cross_attention = True"),
    "shared caches": ("qwen3", {"kv_sharing_modes": ["shared"] * 3}, "kv_sharing_modes = "),
    "window of olmoe": ("olmoe", {"sliding_window": 5}, "sliding_window = 5"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_unsupported_values_are_refused_by_name(tmp_path: Path, which: str) -> None:
    case, edits, message = REFUSED[which]
    model_type, overrides = CASES[case]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    edit_config(folder, edits)
    with pytest.raises(UnsupportedModelError, match=message) as refusal:
        open_checkpoint(folder)
    assert refusal.value.exit_code == 4
    assert "config.json" in str(refusal.value)


def test_keys_unknown_to_transformers_are_ignored(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    expected = ours(folder)
    edit_config(folder, {"final_logit_softcapping": 2.0, "use_flash_attn": True, "someones_own_key": [1, 2]})
    assert torch.equal(ours(folder), expected)


def test_logit_softcapping_of_a_multimodal_model_is_refused(tmp_path: Path) -> None:
    model_type, overrides = CASES["gemma 3, linear on full layers"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides)
    text = json.loads((folder / "config.json").read_text()) | {"final_logit_softcapping": 5.0}
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    with pytest.raises(UnsupportedModelError, match=r"text_config\.final_logit_softcapping = 5\.0"):
        open_checkpoint(folder)


def test_biases_that_the_configuration_switches_off_are_not_used(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_checkpoint(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    for off in ("attention_bias", "mlp_bias"):
        edit_config(folder, {"attention_bias": True, "mlp_bias": True, off: False})
        theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        with torch.inference_mode():
            expected = theirs(torch.tensor([IDS])).logits[0]
        torch.testing.assert_close(ours(folder), expected, rtol=1e-4, atol=1e-5)
    # Without such keys the tensors in the files decide.
    edit_config(folder, {"attention_bias": True, "mlp_bias": True})
    whole = ours(folder)
    edit_config(folder, {}, drop=("attention_bias", "mlp_bias"))
    assert torch.equal(ours(folder), whole)


def test_logit_softcapping_holds_on_all_decode_paths(tmp_path: Path) -> None:
    model_type, overrides = CASES["gemma 3, linear on full layers"]
    folder = tiny_checkpoint(tmp_path, model_type, **overrides, final_logit_softcapping=0.5)
    loaded = llmcli.load(folder, dtype="float32", device="cpu")
    assert loaded.config.logit_softcap == 0.5
    assert float(loaded.logits(IDS).abs().max()) <= 0.5
