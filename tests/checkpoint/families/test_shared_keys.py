"""Models whose last layers read the keys and values of earlier layers, and whose tokens have vectors for each layer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.engine import Engine, SamplingParams, Step
from llmcli.engine.batch.batch import Request
from llmcli.errors import CheckpointError, UnsupportedModelError
from llmcli.inspection.attention.summary import summary
from llmcli.inspection.causal.causal_trace import causal_trace
from llmcli.inspection.core.activations import trace
from llmcli.inspection.core.neuron_values import activations, firing, promotion
from llmcli.inspection.evaluation.cost import model_cost
from llmcli.inspection.residual.logit_lens import lens
from llmcli.kernels.base import readable_logits
from llmcli.kernels.cpu.support import unsupported
from llmcli.loaded_model import LoadedModel
from llmcli.model.quantized.matrix import QuantizedEmbedding
from llmcli.model.quantized.stored_embedding import StoredEmbedding
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import edit_config, random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

SMALL = "gemma 4, small"
TABLE = "model.embed_tokens_per_layer.weight"


def folder_of(case: str, folder: Path, **changes: Any) -> Path:
    model_type, overrides = CASES[case]
    return tiny_checkpoint(folder, model_type, **{**overrides, **changes})


def load(folder: Path, dtype: str = "float32", **options: Any) -> LoadedModel:
    return llmcli.load(folder, dtype=dtype, device="cpu", **options)


@pytest.fixture(scope="module", params=[SMALL, "gemma 3n"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(folder_of(request.param, tmp_path_factory.mktemp("model")))


def greedy(engine: Engine, prompt: list[int], tokens: int = 12, **options: Any) -> list[int]:
    events = engine.stream(prompt, SamplingParams(temperature=0, max_tokens=tokens), **options)
    return [event.id for event in events if isinstance(event, Step)]


def test_sharing_layers_cache_nothing(small: LoadedModel) -> None:
    config, cache = small.config, small.model.new_cache(capacity=64)
    assert [layer.kv_from for layer in config.layers] == [None, None, 0, 1]
    assert cache.layers[2] is cache.layers[0] and cache.layers[3] is cache.layers[1]
    cache.begin(100)
    cache.reserve(120)
    assert cache.layers[2] is cache.layers[0] and cache.layers[3] is cache.layers[1]
    own = sum(segment.keys.nbytes + segment.values.nbytes for segment in cache.layers[:2])
    assert cache.nbytes == own
    sizes = [config.heads_of(layer).key_dim for layer in config.layers[:2]]
    assert sizes == ([8, 16] if config.altup is None else [8, 8])
    assert config.kv_bytes_per_token(2) == sum(2 * 2 * 2 * size for size in sizes)


def test_texts_with_a_common_beginning_have_the_replies_of_new_texts(
    small: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small.model, "new_cache", partial(small.model.new_cache, rewind=5, room=3))
    engine = Engine(small.model, small.tokenizer)
    first = random_ids(60)
    greedy(engine, first)
    for shared, extra in ((60, 5), (62, 4), (20, 30), (0, 9)):
        prompt = first[:shared] + random_ids(extra, seed=shared)
        assert greedy(engine, prompt) == greedy(Engine(small.model, small.tokenizer), prompt)


def test_the_last_token_alone_passes_the_layers_that_share(small: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(40)
    last = small.model.layers[3]
    forward, computed = last.forward, list[int]()

    def counted(x: torch.Tensor, *rest: Any) -> Any:
        computed.append(x.shape[1])
        return forward(x, *rest)

    monkeypatch.setattr(last, "forward", counted)
    with torch.inference_mode():
        whole = small.model(torch.tensor([ids]))[0]
        for start in (0, 11):
            cache = small.model.new_cache(capacity=4, rewind=5, room=3)
            if start:
                readable_logits(small.model, ids[:start], cache, only_last=True)
            seen: list[int] = []
            # Hooks see all tokens, and logits are the same.
            handle = small.model.layers[3].register_forward_hook(lambda *parts: seen.append(parts[2].shape[1]))  # noqa: B023
            hooked = readable_logits(small.model, ids[start:], cache, only_last=True)
            handle.remove()
            assert seen == [len(ids) - start]
            cache.truncate(start)
            computed.clear()
            brief = readable_logits(small.model, ids[start:], cache, only_last=True)
            assert computed == [1]
            for found in (hooked, brief):
                torch.testing.assert_close(found, whole[-1:], rtol=1e-4, atol=2e-5)
            assert cache.length == len(ids)


def test_an_interrupted_pass_leaves_the_text_as_it_was(small: LoadedModel) -> None:
    ids = random_ids(30)
    cache = small.model.new_cache(capacity=4, rewind=5, room=3)
    with torch.inference_mode():
        expected = small.model(torch.tensor([ids]))[0]
        small.model(torch.tensor([ids[:20]]), cache)
        for index in range(small.config.num_layers):
            handle = small.model.layers[index].register_forward_pre_hook(_interrupt)
            with pytest.raises(KeyboardInterrupt):
                small.model(torch.tensor([random_ids(5, seed=9)]), cache)
            handle.remove()
        logits = small.model(torch.tensor([ids[20:]]), cache)[0]
    torch.testing.assert_close(logits, expected[20:], rtol=1e-4, atol=2e-5)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_batches_and_proposals_give_the_replies_of_single_texts(small: LoadedModel) -> None:
    params = SamplingParams(temperature=0, max_tokens=12)
    asked = [Request(tuple(random_ids(length, seed=length)), params) for length in (3, 17, 30)]
    alone = [greedy(Engine(small.model, small.tokenizer), list(one.ids)) for one in asked]
    texts = [small.tokenizer.decode(ids) for ids in alone]
    assert [reply.text for reply in small.batch_engine().run(asked)] == texts  # type: ignore[union-attr]
    words = random_ids(5, seed=4)
    prompt = [*words, *random_ids(4), *words, *words]
    assert greedy(small.engine(lookup=True), prompt) == greedy(Engine(small.model, small.tokenizer), prompt)


def test_published_files_state_the_larger_heads_once(tmp_path: Path) -> None:
    folder = folder_of("gemma 4, values that are keys", tmp_path)
    usual = open_checkpoint(folder).config
    assert [layer.heads is None for layer in usual.layers] == [True, True, False]
    assert [layer.key_is_value for layer in usual.layers] == [False, False, True]
    edit_config(folder, {"global_head_dim": 16, "num_global_key_value_heads": 1}, drop=("per_layer_config",))
    assert open_checkpoint(folder).config == usual


def test_the_published_form_of_gemma_3n_means_the_same(tmp_path: Path) -> None:
    folder = folder_of("gemma 3n", tmp_path)
    usual = open_checkpoint(folder).config
    assert [layer.rope.theta for layer in usual.layers if layer.rope is not None] == [1e4, 1e6, 1e4, 1e6]
    older: dict[str, object] = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": None,
        "query_pre_attn_scalar": 256,
    }
    edit_config(folder, older, drop=("rope_parameters",))
    assert open_checkpoint(folder).config == usual
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3n", "text_config": text}))
    assert open_checkpoint(folder).config == usual


def test_unread_keys_and_parts_for_images_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(SMALL, tmp_path)
    ids = random_ids(20)
    expected = load(folder).logits(ids)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.k_proj.weight"] = torch.zeros(16, 32)
    tensors["model.layers.3.self_attn.k_norm.weight"] = torch.zeros(16)
    inside = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    for part in ("vision_tower.encoder", "embed_vision", "audio_tower.layers", "embed_audio"):
        inside[f"model.{part}.weight"] = torch.zeros(4, 4)
    save_file(inside, folder / "model.safetensors", {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    outer = {"model_type": "gemma4", "text_config": text, "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(outer))
    loaded = load(folder)
    assert loaded.config.logit_softcap == 2.0
    assert torch.equal(loaded.logits(ids), expected)


@pytest.mark.parametrize("packing", [None, "int8"])
def test_the_table_keeps_the_bits_of_the_file(tmp_path: Path, packing: Any) -> None:
    folder = folder_of(SMALL, tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[TABLE] = tensors[TABLE].bfloat16()
    save_file(tensors, path, {"format": "pt"})
    loaded = load(folder) if packing is None else llmcli.load(folder, quantize=packing, device="cpu")
    table = loaded.model.per_layer_embeddings.embed_tokens  # type: ignore[union-attr]
    ids = torch.tensor([[3, 0, 260, 3]])
    found, expected = table(ids), tensors[TABLE][ids]
    if packing is None:
        assert isinstance(table, StoredEmbedding) and table.stored.nbytes == tensors[TABLE].nbytes
        assert found.dtype is torch.float32 and torch.equal(found, expected.float())
    else:
        assert isinstance(table, QuantizedEmbedding) and table.matrix.bits == 8
        assert float((found.float() - expected.float()).abs().max()) < 0.01


def test_the_table_keeps_the_blocks_of_a_gguf_file(tmp_path: Path) -> None:
    kept = quantized(Kind.Q8_0, "per_layer_token_embd")
    model = made(SMALL)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=kept)
    decoded = load(write_gguf(model, tmp_path / "decoded.gguf", kind_of=kept, decoded=True))
    for options in ({}, {"dtype": "auto"}):
        loaded = load(path, **options)
        table = loaded.model.per_layer_embeddings.embed_tokens  # type: ignore[union-attr]
        assert isinstance(table, StoredEmbedding) and table.format.encoding == "Q8_0"
        assert table.stored.nbytes == 261 * 64 // 32 * 34
        ids = torch.tensor([5, 0, 260])
        assert torch.equal(table(ids), decoded.model.per_layer_embeddings.embed_tokens(ids).to(table.dtype))  # type: ignore[union-attr]


def test_gguf_files_may_hold_unread_keys_and_a_count_as_a_float(tmp_path: Path) -> None:
    model = made(SMALL)
    usual = load(write_gguf(model, tmp_path / "model.gguf"))
    extra = {"blk.2.attn_k.weight": torch.zeros(16, 32), "blk.3.attn_v.weight": torch.zeros(32, 32)}
    changes = {"gemma4.attention.shared_kv_layers": 2.0}
    other = load(write_gguf(model, tmp_path / "other.gguf", changes=changes, extra=extra))
    assert torch.equal(other.logits(random_ids(20)), usual.logits(random_ids(20)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"layer_types": ["full_attention", "sliding_attention"] * 2},
            UnsupportedModelError,
            "the last of layer_types",
        ),
        ({"num_kv_shared_layers": 4}, CheckpointError, "num_kv_shared_layers is 4, but not every type"),
        ({"per_layer_config": {"1": {"sliding_window": 3}}}, UnsupportedModelError, "per_layer_config.sliding_window"),
        ({"use_bidirectional_attention": "all"}, UnsupportedModelError, "attention to later tokens"),
    ],
)
def test_what_is_not_computed_is_refused(
    changes: dict[str, object], error: type[CheckpointError], words: str, tmp_path: Path
) -> None:
    folder = folder_of(SMALL, tmp_path)
    edit_config(folder, changes)
    with pytest.raises(error, match=words):
        open_checkpoint(folder)


def test_the_path_says_whether_the_kernel_computes_the_model(small: LoadedModel) -> None:
    reason = unsupported(small.config)
    assert (reason or "cpu kernel") in small.engine().path


def test_views_know_the_layers(small: LoadedModel, tmp_path: Path) -> None:
    ids = random_ids(20)
    found = summary(small, ids, [19])
    assert len(found.blocks) == 4 and all(0 <= block.row.sink <= 1 for block in found.blocks)
    cost = model_cost("x", small.config)
    count = sum(block.attention + block.feed_forward for block in cost.blocks)
    assert 0 < count < cost.parameters
    # Blocks cannot be run on the residual stream alone.
    with pytest.raises(UnsupportedModelError):
        causal_trace(small, ids, [3])
    # With several streams they are side by side, and the last is no sum of the parts.
    streams = 1 if small.config.altup is None else small.config.altup.streams
    assert trace(small.model, ids, [19]).residuals.shape == (5, 1, 32 * streams)
    last = lens(small, ids, [19], top=1).lens[-1].layers[-1].top[0]
    assert last.id == int(small.logits(ids)[-1, : small.tokenizer.vocab_size].argmax())
    if streams > 1:
        with pytest.raises(UnsupportedModelError, match="several residual streams"):
            promotion(small, 0, torch.ones(32), 3)
        with pytest.raises(UnsupportedModelError, match="several residual streams"):
            trace(small.model, ids, [19], parts=True)


def test_experts_beside_a_dense_network_show_their_neurons(tmp_path: Path) -> None:
    loaded = load(folder_of("gemma 4, experts", tmp_path))
    mixture: Any = loaded.model.layers[1].mlp
    x = torch.randn(32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = mixture(x[None, None])[0, 0]
        parts = torch.zeros(32)
        for one in firing(mixture, x):
            parts += one.weight * (one.down.float() @ one.activations)
            assert activations(mixture, x[None], 3, one.expert)[0] == pytest.approx(float(one.activations[3]), rel=1e-4)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
