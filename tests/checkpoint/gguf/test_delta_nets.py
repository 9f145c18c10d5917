"""Files of models with gated delta nets: older layouts, blocks for multi-token prediction, packed weights, errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import random_ids

IDS = random_ids(30)


def logits(path: Path) -> torch.Tensor:
    return llmcli.load(path, dtype="float32", device="cpu").logits(IDS)


def test_older_files_keep_all_parts_of_a_key_head_together(tmp_path: Path) -> None:
    model = made("qwen 3 next")
    newer = write_gguf(model, tmp_path / "newer.gguf")
    older = write_gguf(model, tmp_path / "older.gguf", old=True)
    assert {"blk.0.ssm_in.weight", "blk.0.ssm_ba.weight"} <= set(open_checkpoint(older).tensors)
    assert torch.equal(logits(older), logits(newer))


def test_blocks_for_multi_token_prediction_are_left_out(tmp_path: Path) -> None:
    model = made("qwen 3.5")
    plain = write_gguf(model, tmp_path / "plain.gguf")
    further = write_gguf(
        model,
        tmp_path / "further.gguf",
        changes={"qwen35.block_count": 4, "qwen35.nextn_predict_layers": 1},
        extra={"blk.3.attn_norm.weight": torch.ones(32), "blk.3.nextn.eh_proj.weight": torch.ones(32, 64)},
    )
    assert torch.equal(logits(further), logits(plain))


def test_block_quantized_and_packed_weights(tmp_path: Path) -> None:
    """Value heads stay in the order of the file, so that blocks of codes stay whole."""
    model = made("qwen 3.5", hidden_size=64, linear_value_head_dim=16)
    stored, decoded = (
        write_gguf(model, tmp_path / f"{decoded}.gguf", kind_of=quantized(Kind.Q8_0), decoded=decoded)
        for decoded in (False, True)
    )
    expected = logits(decoded)
    assert torch.equal(logits(stored), expected)
    packed = llmcli.load(stored, dtype="float32", device="cpu", quantize="int8").logits(IDS)
    assert float((packed - expected).norm() / expected.norm()) < 0.05


def test_a_list_of_recurrent_layers_must_be_whole(tmp_path: Path) -> None:
    path = write_gguf(
        made("qwen 3.5"), tmp_path / "m.gguf", changes={"qwen35.attention.recurrent_layers": [True, False]}
    )
    with pytest.raises(CheckpointError, match="true or false for each of 3 layers"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("qwen 3.5", "blk.0.ssm_out.weight"),
        ("qwen 3.5", "blk.0.attn_qkv.weight"),
        ("kimi linear", "blk.0.attn_output.weight"),
        ("kimi linear", "blk.0.attn_q.weight"),
    ],
)
def test_a_missing_tensor_has_the_name_that_other_files_give_it(tmp_path: Path, case: str, name: str) -> None:
    path = write_gguf(made(case), tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes().replace(name.encode(), b"?" * len(name)))
    with pytest.raises(CheckpointError, match=f"lacks the tensor {re.escape(name)}, which"):
        llmcli.load(path, device="cpu")
