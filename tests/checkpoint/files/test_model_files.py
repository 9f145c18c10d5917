"""Which files make up a model: one rule for `list`, `pull` and loading."""

from __future__ import annotations

import pytest

from llmcli.checkpoint.files.model_files import (
    complete_sets,
    first_part,
    gguf_sets,
    missing_parts,
    tokenizer_file,
    weight_files,
)
from llmcli.errors import CheckpointError, UnsupportedModelError

INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BIN_ONE, BIN_TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
NAMED = {INDEX: [ONE, TWO], BIN_INDEX: [BIN_ONE, BIN_TWO]}
THREE = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def chosen(*names: str, config: str = "config.json") -> list[str] | None:
    found = weight_files([*names, config], NAMED.__getitem__, where="m")
    return None if found is None else list(found.files)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        ([INDEX, ONE, TWO], [ONE, TWO]),
        (["model.safetensors", INDEX], ["model.safetensors"]),
        (["model.safetensors", INDEX, ONE], ["model.safetensors"]),
        (["pytorch_model.bin", BIN_INDEX], ["pytorch_model.bin"]),
        (["pytorch_model.bin", BIN_INDEX, BIN_ONE], ["pytorch_model.bin"]),
        ([BIN_INDEX, BIN_ONE, BIN_TWO], [BIN_ONE, BIN_TWO]),
        (["pytorch_model.bin", INDEX], ["pytorch_model.bin"]),
        ([BIN_ONE, BIN_TWO, "training_args.bin"], [BIN_ONE, BIN_TWO]),
        ([INDEX, BIN_INDEX, BIN_ONE, BIN_TWO], [BIN_ONE, BIN_TWO]),
        ([INDEX, *THREE], THREE),
        ([INDEX, ONE, *THREE], THREE),
        ([*THREE], THREE),
        (["model.safetensors", "pytorch_model.bin", "training_args.bin"], ["model.safetensors"]),
        (["odd.safetensors", "adapter_model.safetensors"], ["odd.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors", INDEX, ONE, TWO, "params.json"], [ONE, TWO]),
        (["consolidated.safetensors", INDEX, "params.json"], ["consolidated.safetensors"]),
        (["pytorch_model.bin", "consolidated.safetensors"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "consolidated.00.pth", "params.json"], ["pytorch_model.bin"]),
        (["consolidated.00.pth", "consolidated.01.pth", "params.json"], ["consolidated.00.pth", "consolidated.01.pth"]),
        (["unet/model.safetensors", "adapter_model.safetensors"], None),
        (["m.gguf"], None),
        (["m.gguf", INDEX], None),
        (["training_args.bin"], None),
    ],
)
def test_weight_files_are_found(names: list[str], expected: list[str] | None) -> None:
    assert chosen(*names) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["consolidated.safetensors", "model.safetensors"], ["consolidated.safetensors"]),
        (
            ["consolidated-00002-of-00002.safetensors", "consolidated-00001-of-00002.safetensors"],
            ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"],
        ),
        (["model.safetensors"], None),
    ],
)
def test_without_config_json_only_native_layouts_are_found(names: list[str], expected: list[str] | None) -> None:
    assert chosen(*names, config="params.json") == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([INDEX], f"m lacks 2 of 2 weight files, such as '{ONE}'; download the rest."),
        ([INDEX, ONE], f"lacks 1 of 2 weight files, such as '{TWO}'"),
        ([INDEX, ONE, "pytorch_model.bin"], f"such as '{TWO}'"),
        ([INDEX, "odd.safetensors"], f"lacks 2 of 2 weight files, such as '{ONE}'"),
        ([BIN_INDEX, BIN_TWO], f"such as '{BIN_ONE}'"),
        ([BIN_TWO], f"lacks 1 of 2 weight files, such as '{BIN_ONE}'"),
        ([THREE[0], THREE[2]], f"lacks 1 of 3 weight files, such as '{THREE[1]}'"),
        (["consolidated.safetensors"], "not the params.json"),
        (["consolidated-00002-of-00003.safetensors", "params.json"], "such as 'consolidated-00001-of-00003"),
        (["consolidated.01.pth", "params.json"], r"such as 'consolidated\.00\.pth'"),
    ],
)
def test_missing_files_are_named(names: list[str], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        chosen(*names)


def test_unrelated_weight_files_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="2 safetensors files and no model"):
        chosen("a.safetensors", "b.safetensors")


def damaged(index: str) -> list[str]:
    raise CheckpointError(f"{index} is damaged")


def test_a_damaged_index_beside_shards_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        weight_files(["config.json", INDEX, ONE, TWO], damaged, where="m")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([INDEX, "model.safetensors"], "model.safetensors"),
        ([INDEX, ONE, "model.safetensors"], "model.safetensors"),
        ([BIN_INDEX, "pytorch_model.bin"], "pytorch_model.bin"),
        ([BIN_INDEX, INDEX, "model.safetensors"], "model.safetensors"),
        ([INDEX, "m.gguf"], None),
    ],
)
def test_a_damaged_index_beside_a_single_file_is_ignored(names: list[str], expected: str | None) -> None:
    found = weight_files([*names, "config.json"], damaged, where="m")
    assert (None if found is None else found.files) == (None if expected is None else (expected,))
    if found is not None:
        assert found.notes == (
            f"{expected}.index.json is not used: {expected} is beside it, which holds the whole model.",
        )


@pytest.mark.parametrize(
    ("listed", "files", "notes"),
    [
        ([ONE, TWO], ["model.safetensors"], 1),
        (["model.safetensors"], ["model.safetensors"], 0),
        (["absent.safetensors", "model.safetensors"], ["model.safetensors"], 1),
        # One of several shards, not a single file.
        ([ONE, "model.safetensors"], [ONE, "model.safetensors"], 0),
    ],
)
def test_a_single_file_precedes_an_index(listed: list[str], files: list[str], notes: int) -> None:
    found = weight_files(["config.json", INDEX, ONE, TWO, "model.safetensors"], lambda index: listed, where="m")
    assert found is not None
    assert (list(found.files), len(found.notes)) == (files, notes)


def test_series_of_files_and_their_gaps() -> None:
    two, three = ([f"m-0000{n}-of-0000{count}.gguf" for n in range(1, count + 1)] for count in (2, 3))
    assert complete_sets([*reversed(two), "n.gguf", *three[1:]]) == {"m": two, "n": ["n.gguf"]}
    assert complete_sets([*two, *three]) == {"m-of-00002": two, "m-of-00003": three}
    assert complete_sets([*two, "m-00003-of-00002.gguf"]) == {}
    assert missing_parts([two[1], three[0]]) == [two[0], three[1], three[2]]
    assert missing_parts([*two, "n.gguf"]) == []
    assert len(missing_parts(["m-00001-of-99999.gguf"])) < 10000
    assert first_part("a/m-00003-of-00007.GGUF") == "a/m-00001-of-00007.GGUF"
    assert first_part("m-Q8_0.gguf") == "m-Q8_0.gguf"
    assert gguf_sets(["mmproj-F16.gguf", "m.imatrix.gguf", "M.GGUF", "x.bin"]) == {"M": ["M.GGUF"]}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["tokenizer.model", "tokenizer.json"], "tokenizer.json"),
        (["vocab.json", "merges.txt", "tokenizer.model"], "tokenizer.model"),
        (["vocab.json", "merges.txt"], "vocab.json"),
        (["vocab.json"], None),
        (["merges.txt", "vocab.txt"], None),
        (["spiece.model", "tokenizer.model.v3", "tokenizer_config.json"], None),
    ],
)
def test_the_tokenizer_file_is_chosen(names: list[str], expected: str | None) -> None:
    assert tokenizer_file(names) == expected
