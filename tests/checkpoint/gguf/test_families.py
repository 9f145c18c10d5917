"""GGUF files of every family against `transformers`: all changes by the converter are undone."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoConfig

import llmcli
from llmcli.checkpoint import checkpoint
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.gguf import config as gguf_config
from llmcli.checkpoint.gguf.families import ARCHITECTURES
from llmcli.checkpoint.gguf.header import read_gguf
from llmcli.checkpoint.gguf.refused_keys import CHANGING, SAME_AS
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError
from llmcli.model import FrequencyFactors, Llama3Scaling
from tests.support.gguf.facts import architecture_name
from tests.support.gguf.families import STORED, made, of_case, quantized, settings
from tests.support.gguf.harmless_keys import HARMLESS, RECORDED
from tests.support.gguf.writer import write_gguf
from tests.support.models.parity_cases import SPANNING
from tests.support.models.tiny import SIZES, random_ids, save

IDS = random_ids(50)


def load(path: Path, dtype: str = "float32") -> llmcli.LoadedModel:
    return llmcli.load(path, dtype=dtype, device="cpu")


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_every_architecture_has_a_case() -> None:
    configs = [AutoConfig.for_model(of_case(name)[0], **{**SIZES, **settings(name)}) for name in STORED]
    tried = {architecture_name(config) for config in configs}
    # Grok and DeepSeek-V4 have tests apart: transformers lacks one, the gguf package the other.
    assert tried | set(MULTIMODAL) | {"bitnet", "grok", "deepseek4"} == set(ARCHITECTURES)


# All families are tested in the full run; in the fast run only those that cover all features of a file.
QUICK_FIRST = [name if name in SPANNING else pytest.param(name, marks=pytest.mark.slow) for name in STORED]


@pytest.fixture(params=QUICK_FIRST, scope="module")
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of `transformers`, and its GGUF file."""
    model = made(request.param)
    return model, write_gguf(model, tmp_path_factory.mktemp("model") / "model.gguf")


def test_logits_equal_those_of_transformers(stored: tuple[Any, Path]) -> None:
    model, path = stored
    loaded = load(path)
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
    assert relative_error(loaded.logits(IDS), reference) < 2e-5
    cache = loaded.model.new_cache(capacity=4)
    cache.expected_length = len(IDS)
    for start, stop in ((0, 30), (30, 31), (31, 50)):
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([IDS[start:stop]]), cache)[0]
        assert relative_error(logits, reference[start:stop]) < 2e-5


def rounded(value: Any) -> Any:
    """Nested plain values, with numbers rounded as in the metadata, and without values that are stored as tensors."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key not in ("tie_embeddings", "tiled")}
    if isinstance(value, Llama3Scaling | FrequencyFactors):
        return "a table"
    if is_dataclass(value):
        return rounded(vars(value))
    if isinstance(value, tuple):
        return tuple(map(rounded, value))
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_the_configuration_equals_that_of_the_hugging_face_folder(stored: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = stored
    ours = open_checkpoint(path).config
    if model.config.model_type == "muse_glimmer":
        # The file has weights for norms that have none in the folder.
        ours = replace(ours, qk_norm="weightless", attention_scale=model.config.text_config.qk_scale_factor * 8**-0.5)
    assert rounded(ours) == rounded(open_checkpoint(save(model, tmp_path / "folder")).config)


# Text models of multimodal ones, and the cases that compute the same.
MULTIMODAL = {"qwen2vl": "qwen2", "qwen3vl": "qwen3", "qwen3vlmoe": "qwen3-moe"}


@pytest.mark.parametrize("architecture", MULTIMODAL)
def test_text_models_of_multimodal_ones_are_those_of_text(architecture: str, tmp_path: Path) -> None:
    model = made(MULTIMODAL[architecture], mlp_only_layers=[], use_sliding_window=False)
    sections = {f"{architecture}.rope.dimension_sections": [1, 1, 2, 0]}
    path = write_gguf(model, tmp_path / "model.gguf", architecture=architecture, changes=sections)
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
    assert relative_error(load(path).logits(IDS), reference) < 2e-5


def test_the_first_bitnet_models_have_another_activation(tmp_path: Path) -> None:
    model = made("bitnet", hidden_act="silu")
    path = write_gguf(model, tmp_path / "model.gguf", architecture="bitnet")
    with torch.inference_mode():
        reference = model(torch.tensor([IDS])).logits[0]
    assert relative_error(load(path).logits(IDS), reference) < 2e-5


@pytest.mark.parametrize("name", ["llama 3.1", "gemma 2", "nemotron", "olmo 2", "cohere", "gpt-oss"])
def test_bfloat16_logits_equal_those_of_the_hugging_face_folder(name: str, tmp_path: Path) -> None:
    model = made(name).bfloat16()
    theirs = load(save(model, tmp_path / "folder"), "bfloat16").logits(IDS).float()
    ours = load(write_gguf(model, tmp_path / "model.gguf"), "bfloat16").logits(IDS).float()
    # Far less than the effect of the norms' order of rounding.
    assert relative_error(ours, theirs) < 1e-3


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("llama 3.1", Kind.Q4_0, ""),
        ("phi-3, longrope, short", Kind.Q5_0, ""),
        ("pythia, parallel", Kind.Q8_0, ""),
        ("mixtral", Kind.Q8_0, ""),
        ("deepseek v3", Kind.Q8_0, ""),
        ("gemma 4, experts", Kind.Q8_0, ""),
        ("gpt-oss", Kind.MXFP4, "_exps"),
    ],
)
def test_quantized_weights_equal_the_decoded_ones(name: str, kind: Kind, part: str, tmp_path: Path) -> None:
    # Wide enough for a latent to be a whole number of blocks.
    sizes = {"kv_lora_rank": 32, "qk_nope_head_dim": 32} if name == "deepseek v3" else {}
    model = made(name, intermediate_size=64, **sizes)
    kind_of = quantized(kind, part)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=kind_of)
    decoded = load(write_gguf(model, tmp_path / "decoded.gguf", kind_of=kind_of, decoded=True))
    stored = {info.encoding for info in read_gguf(path).tensors.values()}
    assert stored == {kind.name, "F32"}
    loaded = load(path)
    for parameter, values in decoded.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(parameter), values), parameter


def test_a_split_file_gives_the_same_logits(tmp_path: Path) -> None:
    model = made("gemma 2")
    whole = load(write_gguf(model, tmp_path / "model.gguf"))
    first = write_gguf(model, tmp_path / "parts.gguf", largest_part=10)
    assert len(list(tmp_path.glob("parts-*.gguf"))) > 3
    assert torch.equal(load(first).logits(IDS), whole.logits(IDS))


@pytest.mark.parametrize(
    ("name", "form"),
    [("mixtral", "old"), ("deepseek v3", "old"), ("deepseek v2 lite", "old"), ("qwen3-moe", "joined")],
)
def test_older_and_alternative_layouts_give_the_same_logits(name: str, form: str, tmp_path: Path) -> None:
    model = made(name)
    usual = load(write_gguf(model, tmp_path / "model.gguf"))
    other = load(write_gguf(model, tmp_path / "other.gguf", old=form == "old", joined=form == "joined"))
    assert torch.equal(other.logits(IDS), usual.logits(IDS))


def test_a_list_of_equal_sizes_counts_as_one_size(tmp_path: Path) -> None:
    model = made("llama 1")
    sizes = {"attention.head_count": 4, "attention.head_count_kv": 4, "feed_forward_length": 48}
    lists = {f"llama.{key}": [size] * 3 for key, size in sizes.items()}
    usual = load(write_gguf(model, tmp_path / "model.gguf"))
    assert load(write_gguf(model, tmp_path / "lists.gguf", changes=lists)).config == usual.config


def test_multi_token_prediction_layers_are_left_out(tmp_path: Path) -> None:
    model = made("glm 4")
    extra = {"blk.3.nextn.eh_proj.weight": torch.zeros(32, 64), "blk.3.attn_norm.weight": torch.zeros(32)}
    changes = {"glm4.block_count": 4, "glm4.nextn_predict_layers": 1}
    usual = load(write_gguf(model, tmp_path / "model.gguf"))
    further = load(write_gguf(model, tmp_path / "further.gguf", changes=changes, extra=extra))
    assert torch.equal(further.logits(IDS), usual.logits(IDS))


@pytest.mark.parametrize(("layers", "scale"), [(46, 8.0), (45, 10.0)])
def test_only_the_largest_gemma_has_another_attention_scale(layers: int, scale: float, tmp_path: Path) -> None:
    model = made("gemma 2", num_hidden_layers=layers, head_dim=10)
    config = open_checkpoint(write_gguf(model, tmp_path / "model.gguf")).config
    assert config.attention_scale == pytest.approx(scale**-0.5)


@pytest.mark.parametrize("pattern", [3, [True, True, False, True, True, False]])
def test_the_sliding_window_pattern_may_be_in_the_file(pattern: int | list[bool], tmp_path: Path) -> None:
    model = made("gemma 3, linear on full layers", num_hidden_layers=6)
    changes = {"gemma3.attention.sliding_window_pattern": pattern}
    config = open_checkpoint(write_gguf(model, tmp_path / "model.gguf", changes=changes)).config
    assert [layer.window for layer in config.layers] == [6, 6, None, 6, 6, None]
    assert [layer.rope.theta for layer in config.layers if layer.rope] == [1e4, 1e4, 1e6, 1e4, 1e4, 1e6]


def test_llama_4_without_a_window_has_rope_in_all_layers(tmp_path: Path) -> None:
    path = write_gguf(made("llama 4"), tmp_path / "model.gguf", changes={"llama4.attention.sliding_window": 0})
    for layer in open_checkpoint(path).config.layers:
        assert layer.rope is not None and layer.chunk is None and layer.query_scaling is None


def test_yarn_extends_the_original_context(tmp_path: Path) -> None:
    changes = {"qwen2.context_length": 32}
    path = write_gguf(made("qwen2, yarn"), tmp_path / "model.gguf", changes=changes)
    assert open_checkpoint(path).config.context_length == 4 * 32


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown architecture": (
        {"general.architecture": "nonesuch"},
        "architecture 'nonesuch', which is not supported",
    ),
    "recurrent layers": ({"general.architecture": "rwkv7"}, "layers with a recurrent state"),
    "distance": ({"general.architecture": "jais"}, "biased by distance"),
    "an encoder": ({"general.architecture": "t5"}, "an encoder"),
    "state keys": ({"llama.ssm.conv_kernel": 4}, r"recurrent state of another kind \(ssm.conv_kernel\)"),
    "short convolutions": ({"llama.shortconv.l_cache": 3}, "shortconv"),
    "wkv": ({"llama.wkv.head_size": 64}, "wkv"),
    "kda": ({"llama.kda.head_dim": 64}, "kda"),
    "layers without heads": ({"llama.attention.head_count_kv": [4, 0, 4]}, r"without attention heads \(block 1\)"),
    "a scaling": ({"llama.rope.scaling.type": "spiral"}, "'spiral' rotary position scaling"),
    "no attention to what came before alone": ({"llama.attention.causal": False}, "later tokens"),
    "a base for windows": ({"llama.rope.freq_base_swa": 5.0}, "separate RoPE base"),
    "a cap of logits": ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping = 30.0"),
    "a scale of scores": ({"llama.attention.scale": 0.5}, "llama.attention.scale = 0.5"),
    "a factor of embeddings": ({"llama.embedding_scale": 12.0}, "llama.embedding_scale = 12.0"),
    "a window": ({"llama.attention.sliding_window": 16}, "llama.attention.sliding_window = 16"),
    "clamped experts": ({"llama.swiglu_clamp_exp": [0.0, 7.0, 0.0]}, "llama.swiglu_clamp_exp = "),
    "a factor without a scaling": ({"llama.rope.scaling.attn_factor": 1.5}, "rope.scaling.attn_factor = 1.5"),
    "a temperature": ({"llama.attention.temperature_scale": 0.1}, "attention.temperature_scale = 0.1"),
    "windows of other sizes": ({"llama.attention.key_length_swa": 4}, "attention.key_length_swa = 4"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_unsupported_files_are_refused_before_weights_are_read(
    changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(made("llama 1"), tmp_path / "model.gguf", changes=changes)
    monkeypatch.delattr("llmcli.checkpoint.tensors.reader.TensorReader.read_rows")
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        load(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)


def test_values_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    model = made("llama 1")
    neutral = {
        "final_logit_softcapping": 0.0,
        "logit_scale": 1.0,
        "attention.sliding_window": model.config.max_position_embeddings,
        "attention.key_length_swa": 8,
        "swiglu_clamp_exp": [0.0, 0.0, 0.0],
        "use_parallel_residual": False,
        "rope.scaling.attn_factor": 1.0,
        "someones_own_key": 3,
    }
    changes = {f"llama.{key}": value for key, value in neutral.items()} | {"llama.attention.key_length": 8}
    usual = load(write_gguf(model, tmp_path / "model.gguf"))
    assert load(write_gguf(model, tmp_path / "other.gguf", changes=changes)).config == usual.config


@pytest.mark.parametrize("cap", [30.0, 0.0])
def test_logit_softcapping_is_read_if_the_family_has_it(cap: float, tmp_path: Path) -> None:
    changes = {"gemma3.final_logit_softcapping": cap}
    path = write_gguf(made("gemma 3, linear on full layers"), tmp_path / "model.gguf", changes=changes)
    assert open_checkpoint(path).config.logit_softcap == (cap or None)


def test_every_key_of_the_gguf_package_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is read, refused where it is not read, or in the list of keys that change nothing."""
    asked: set[str] = set()
    monkeypatch.setattr(gguf_config, "refuse_unknown_values", lambda keys: asked.update(keys.read_keys))
    for number, name in enumerate({of_case(name)[0]: name for name in STORED}.values()):
        open_checkpoint(write_gguf(made(name), tmp_path / f"{number}.gguf"))
    groups = (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Attention.Indexer, gguf.Keys.Rope)
    known = {value for group in groups for value in vars(group).values() if isinstance(value, str)}
    ends = {value.removeprefix("{arch}.") for value in known if value.startswith("{arch}.") and "{dense}" not in value}
    missing = sorted(ends - asked - set(CHANGING) - set(HARMLESS) - set(SAME_AS) - {"attention.causal"})
    newer = tuple(map(int, version("gguf").split(".")[:2])) > tuple(map(int, RECORDED.split(".")))
    if missing and newer:
        pytest.skip(f"gguf {version('gguf')} has keys that the lists do not know yet: {missing}")
    assert not missing


def test_unknown_gating_functions_are_refused(tmp_path: Path) -> None:
    path = write_gguf(made("mixtral"), tmp_path / "model.gguf", changes={"llama.expert_gating_func": 2})
    with pytest.raises(UnsupportedModelError, match="weights experts with gating function 2"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"blk.1.ssm_in.weight": torch.zeros(4, 4)}, "recurrent state"),
        ({"blk.1.attn_q_norm.weight": torch.zeros(8)}, "does not describe"),
        ({"rope_freqs.weight": torch.ones(5)}, "rope_freqs.weight has 5 values, 4 are needed"),
        ({"rope_freqs.weight": torch.tensor([1.0, 0.0, 1.0, 1.0])}, "not positive"),
        ({"rope_freqs.weight": torch.zeros(1 << 17)}, "more than RoPE can have"),
        ({"rope_factors_long.weight": torch.ones(4), "rope_factors_short.weight": torch.ones(3)}, "short_factor has 3"),
    ],
)
def test_missing_or_unexpected_tensors_are_named(extra: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    path = write_gguf(made("llama 1"), tmp_path / "model.gguf", extra=extra)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


BROKEN_VALUES: list[Any] = [
    *(None, 0, 1, -1, 7, (1 << 31) - 1, 1 << 63, True, "x", "", 0.0, -1.0, 1e-30, 1e30),
    *([], [1, 2], [True], ["x"] * 9),
]
VARIED = (
    "llama 3.1",
    "gemma 3, linear on full layers",
    "gemma 4, small",
    "gemma 4, experts",
    "gemma 3n",
    "deepseek v3",
    "llama 4",
    "phi-3, longrope, long",
    "ministral 3",
)


@pytest.mark.parametrize("name", VARIED)
def test_any_value_of_any_key_is_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_gguf(write_gguf(made(name), tmp_path / "model.gguf"))
    sound = dict(header.metadata)
    architecture = sound["general.architecture"]
    monkeypatch.setattr(checkpoint, "read_gguf", lambda *_: header)
    refused = 0
    for key in [key for key in sound if key.startswith(f"{architecture}.")]:
        for value in BROKEN_VALUES:
            header.metadata = {other: sound[other] for other in sound if other != key}
            if value is not None:
                header.metadata[key] = value
            try:
                open_checkpoint(header.path)
            except LlmcliError as error:
                assert str(header.path) in str(error) or "Tensor" in str(error)
                refused += 1
    assert refused > 5 * len(BROKEN_VALUES)


@pytest.mark.parametrize("name", [*VARIED, "qwen2-moe", "gpt-oss", "gpt-2"])
def test_a_tensor_of_another_shape_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_gguf(write_gguf(made(name), tmp_path / "model.gguf"))
    sound = dict(header.tensors)
    monkeypatch.setattr(checkpoint, "read_gguf", lambda *_: header)
    for tensor in sound:
        for shape in ((), (7,), (7, 7), (7, 7, 7), (1, 7, 7, 7)):
            header.tensors = {**sound, tensor: replace(sound[tensor], shape=shape)}
            with pytest.raises(CheckpointError):
                open_checkpoint(header.path)
