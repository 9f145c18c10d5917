"""Safetensors headers: equal to the `safetensors` library on valid files, and at least as strict on all others."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmcli.checkpoint.huggingface.safetensors_header import read_safetensors
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError
from tests.support.models.safetensors_folder import read_safetensors_folder

FIELDS = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
ENTRY = "{" + FIELDS + "}"


def file(header: str | bytes, data: int = 8, *, length: int | None = None) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(range(data))


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


def library_tensors(content: bytes) -> dict[str, Any]:
    return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]


def accepted_by_library(content: bytes) -> bool:
    try:
        library_tensors(content)
    except safetensors.SafetensorError:
        return False
    return True


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], dict[str, TensorInfo]]:
    def from_bytes(content: bytes) -> dict[str, TensorInfo]:
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return read_safetensors(path)

    return from_bytes


def values(infos: dict[str, TensorInfo]) -> dict[str, Tensor]:
    with TensorReader() as reader:
        return {name: reader.read_rows(info, 0, info.rows).reshape(info.shape) for name, info in infos.items()}


# The library has no torch dtype for E8M0 scales.
TYPES = [name for name, encoding in ENCODINGS.items() if encoding.dtype is not None and name != "F8_E8M0"]


@pytest.mark.parametrize("name", TYPES)
def test_tensors_of_every_type_equal_those_of_the_library(tmp_path: Path, name: str) -> None:
    dtype = ENCODINGS[name].dtype
    assert dtype is not None
    tensors = {
        f"{name} {list(shape)}": torch.randint(0, 2, shape).to(dtype)
        for shape in [(), (1,), (3, 4), (2, 3, 5), (0,), (4, 0)]
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "note": '{"}'})
    ours = values(read_safetensors(path))
    assert ours.keys() == tensors.keys()
    for key, theirs in safetensors.torch.load_file(path).items():
        assert (ours[key].dtype, ours[key].shape) == (theirs.dtype, theirs.shape)
        assert bytes(ours[key].reshape(-1).view(torch.uint8).tolist()) == bytes(
            theirs.reshape(-1).view(torch.uint8).tolist()
        )


ODD_BUT_SOUND = {
    "no tensors": file("{}", 0),
    "metadata only": file('{"__metadata__":{"a":"b"}}', 0),
    "null metadata": file(f'{{"__metadata__":null,"a":{ENTRY}}}'),
    "a further field": file(f'{{"a":{{"x":1,{FIELDS}}}}}'),
    "further fields of any kind": file(f'{{"a":{{"x":[1.5,{{"y":null}}],{FIELDS},"strides":"none"}}}}'),
    "a header of 40 MB": file(f'{{"a":{ENTRY}}}' + " " * 40_000_000),
    "padding": file(f'{{"a":{ENTRY}}}   \n'),
    "leading space": file(f'  {{"a":{ENTRY}}}'),
    "escape in a name": file(f'{{"\\u0061\\ud83d\\ude00":{ENTRY}}}'),
    "empty name": file(f'{{"":{ENTRY}}}'),
    "empty tensor at the start": file(f'{{"a":{ENTRY},"b":{entry(shape=[0, 9], offsets=[0, 0])}}}'),
    "empty tensor at the end": file(f'{{"b":{entry(shape=[9, 0], offsets=[8, 8])},"a":{ENTRY}}}'),
    "scales of powers of two": file('{{"a":{}}}'.format(entry("F8_E8M0", [8]))),
}


@pytest.mark.parametrize("content", ODD_BUT_SOUND.values(), ids=ODD_BUT_SOUND)
def test_unusual_but_valid_files_are_read(read: Callable[[bytes], dict[str, TensorInfo]], content: bytes) -> None:
    theirs = library_tensors(content)
    ours = read(content)
    assert {name: (list(info.shape), info.encoding) for name, info in ours.items()} == {
        name: (tensor["shape"], tensor["dtype"]) for name, tensor in theirs.items()
    }
    for name, info in ours.items():
        assert content[info.offset : info.offset + info.nbytes] == bytes(theirs[name]["data"])


DEEP = "[" * 5000 + "]" * 5000
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "7 bytes": (b"\2\0\0\0\0\0\0", "not a safetensors file"),
    "no header": (file(""), "not a safetensors file"),
    "length 2^64 - 1": (file("{}", length=(1 << 64) - 1), "not a safetensors file"),
    "length over the limit": (file("{}", length=100_000_001), "header would have 100000001 bytes"),
    "length past the end": (file(f'{{"a":{ENTRY}}}', length=90), "cut short"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "JSON error": (b'{"error": "Repository not found"}', "JSON document"),
    "ZIP": (b"PK\x03\x04\x14\0\0\0\0\0", "ZIP archive"),
    "pickle": (b"\x80\x02}q\0(X\x06\0\0\0.", "Python pickle"),
    "GGUF": (b"GGUF\3\0\0\0\1\0\0\0", "GGUF file"),
    "not UTF-8": (file(b'{"a\xff":%s}' % ENTRY.encode()), "not UTF-8"),
    "byte order mark": (file("\ufeff{}", 0), "not valid JSON"),
    "not JSON": (file("{'a': 1}"), "not valid JSON"),
    "NaN": (file('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), "not valid JSON"),
    "half a surrogate pair": (file(f'{{"\\ud800":{ENTRY}}}'), "not valid JSON"),
    "half a pair in the metadata": (file('{"__metadata__":{"a":"\\udc00"}}', 0), "__metadata__"),
    "text after the object": (file(f'{{"a":{ENTRY}}}x'), "not valid JSON"),
    "a list": (file("[]", 0), "not a JSON object"),
    "deep lists": (file(f'{{"a":{DEEP}}}'), "not valid JSON"),
    "lists of some depth": (file(f'{{"a":{{{FIELDS},"x":{DEEP[4800:5200]}}}}}'), "nested too deeply"),
    "number of many digits": (file(f'{{"a":{entry(shape=[10**4000])}}}'), "'a' has no valid shape"),
    "metadata that is no text": (file(f'{{"__metadata__":{{"a":1}},"a":{ENTRY}}}'), "__metadata__"),
    "metadata in a list": (file(f'{{"__metadata__":["a"],"a":{ENTRY}}}'), "__metadata__"),
    "a field twice": (file(f'{{"a":{{"dtype":"F32",{FIELDS}}}}}'), "'dtype' twice"),
    "entry that is a number": (file('{"a":1}'), "'a' is not described"),
    "entry without a shape": (file('{"a":{"dtype":"F32","data_offsets":[0,8]}}'), "'a' is not described"),
    "unknown dtype": (file('{{"a":{}}}'.format(entry("F33"))), "unknown dtype 'F33'"),
    "block format": (file('{{"a":{}}}'.format(entry("Q4_0", [32], [0, 18])), 18), "unknown dtype 'Q4_0'"),
    "dtype that is a list": (file('{{"a":{}}}'.format(entry(["F32"]))), "no dtype"),
    "shape that is a number": (file(f'{{"a":{entry(shape=2)}}}'), "no valid shape"),
    "negative shape": (file(f'{{"a":{entry(shape=[-2, -1])}}}'), "no valid shape"),
    "shape minus nothing": (file('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,8]}}'), "no valid shape"),
    "shape with a fraction": (file(f'{{"a":{entry(shape=[2.0])}}}'), "no valid shape"),
    "shape with a truth value": (file('{{"a":{}}}'.format(entry("F64", [True]))), "no valid shape"),
    "shape that wraps": (file(f'{{"a":{entry(shape=[1 << 62, 4], offsets=[0, 0])}}}', 0), "its shape and dtype need"),
    "100000 dimensions": (file(f'{{"a":{entry(shape=[9] * 10**5)}}}'), "its shape and dtype need"),
    "three offsets": (file(f'{{"a":{entry(offsets=[0, 4, 8])}}}'), "no valid data_offsets"),
    "negative offsets": (file(f'{{"a":{entry(offsets=[-8, 0])}}}'), "no valid data_offsets"),
    "offsets the wrong way round": (file(f'{{"a":{entry(offsets=[8, 0])}}}'), "its shape and dtype need"),
    "offsets beyond 2^64": (file(f'{{"a":{entry(offsets=[1 << 64, (1 << 64) + 8])}}}'), "no valid data_offsets"),
    "too few bytes": (file(f'{{"a":{entry(shape=[3])}}}'), "'a' has 8 bytes, its shape and dtype need 12"),
    "overlap": (file(f'{{"a":{ENTRY},"b":{entry(offsets=[4, 12])}}}', 12), "'b' overlaps"),
    "hole at the start": (file(f'{{"a":{entry(offsets=[4, 12])}}}', 12), "'a' leaves a gap"),
    "hole": (file(f'{{"a":{ENTRY},"b":{entry(offsets=[12, 20])}}}', 20), "'b' leaves a gap"),
    "trailing bytes": (file(f'{{"a":{ENTRY}}}', 9), "has 1 bytes after"),
    "cut in the data": (file(f'{{"a":{ENTRY}}}', 7), "cut short"),
    "escape codes in a name": (file('{{"\\u001b[2J":{}}}'.format(entry("F33"))), r"'\x1b[2J'"),
}  # fmt: skip
# Stricter than the library: duplicate keys, of which it drops one silently.
STRICTER = {
    "a tensor twice": (file(f'{{"a":{ENTRY},"a":{ENTRY}}}'), "'a' twice"),
    "metadata key twice": (file('{"__metadata__":{"k":"1","k":"2"}}', 0), "'k' twice"),
    "entry in a list": (file('{"a":["F32",[2],[0,8]]}'), "'a' is not described"),
    "numbers of half a byte": (
        file('{{"a":{}}}'.format(entry("F4", [16]))),
        "'a' holds F4 numbers, which are not supported",
    ),
}


def test_a_header_of_more_values_than_a_million_tensors_have_is_not_parsed(
    read: Callable[[bytes], dict[str, TensorInfo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llmcli.checkpoint.huggingface.safetensors_header.json.loads", lambda *_, **__: pytest.fail("parsed")
    )
    nested = "[" * 1_500_000 + "]" * 1_500_000
    for value in (f"{nested},{nested}", "0," * 8_000_000 + "0"):
        with pytest.raises(CheckpointError, match="more than a million tensors"):
            read(file(f'{{"a":{{"x":[{value}],{FIELDS}}}}}'))


@pytest.mark.parametrize(("content", "words"), [*BROKEN.values(), *STRICTER.values()], ids=[*BROKEN, *STRICTER])
def test_damaged_files_are_refused_with_little_memory(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_safetensors(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert peak < 10 * len(content) + (1 << 20)


@pytest.mark.parametrize("case", BROKEN)
def test_the_library_refuses_the_same_files(case: str) -> None:
    assert not accepted_by_library(BROKEN[case][0])


GOOD = file(f'{{"__metadata__":{{"format":"pt"}},"a":{ENTRY},"b\\u0062":{entry("BF16", [2, 3], [8, 20])}}}', 20)


def check(read: Callable[[bytes], dict[str, TensorInfo]], content: bytes) -> bool:
    """Whether we accept it; then the library must accept it too, with the same tensors."""
    try:
        ours = read(content)
    except CheckpointError:
        return False
    assert accepted_by_library(content)
    assert {name: (list(info.shape), info.encoding) for name, info in ours.items()} == {
        name: (tensor["shape"], tensor["dtype"]) for name, tensor in library_tensors(content).items()
    }
    return True


def test_a_file_truncated_anywhere_is_refused(read: Callable[[bytes], dict[str, TensorInfo]]) -> None:
    assert check(read, GOOD)
    assert not any(check(read, GOOD[:length]) for length in range(len(GOOD)))


def test_random_damage_is_refused_or_harmless(read: Callable[[bytes], dict[str, TensorInfo]]) -> None:
    generator = random.Random(0)
    accepted = 0
    for _ in range(3000):
        content = bytearray(GOOD)
        for _ in range(generator.randint(1, 2)):
            # Mostly characters with a meaning in JSON headers.
            byte = generator.choice(b'0123456789-.,:[]{}" \\u\n\0\xff')
            content[generator.choice([0, generator.randrange(8, len(GOOD))])] = byte
        accepted += check(read, bytes(content))
    assert 100 < accepted < 2900


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.floats() | st.sampled_from(["F32", "U8", "a", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "dtype", "shape"]), inner, max_size=3)
    ),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8"]) | json_values,
        "shape": st.lists(st.integers(0, 3), max_size=2) | json_values,
        "data_offsets": st.tuples(st.just(0), st.integers(0, 12)) | json_values,
    }
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | json_values, max_size=2),
    data=st.sampled_from([0, 1, 4, 8, 12]),
)
def test_random_json_headers_are_read_like_the_library(
    read: Callable[[bytes], dict[str, TensorInfo]], header: dict[str, object], data: int
) -> None:
    check(read, file(json.dumps(header), data))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60) | st.binary(max_size=60).map(file))
def test_random_bytes_are_read_like_the_library(read: Callable[[bytes], dict[str, TensorInfo]], content: bytes) -> None:
    check(read, content)


# Folders


def shard(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: torch.full((2,), float(ord(name[0]))) for name in names}, path)


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shard(folder / ONE, "a", "b")
    shard(folder / TWO, "c")
    index(folder, {"a": ONE, "b": ONE, "c": TWO})
    return folder


def test_shards_are_read_together(sharded: Path) -> None:
    infos = read_safetensors_folder(sharded)
    assert {name: info.path.name for name, info in infos.items()} == {"a": ONE, "b": ONE, "c": TWO}
    assert {name: value.tolist() for name, value in values(infos).items()} == {
        name: [float(ord(name))] * 2 for name in "abc"
    }


@pytest.mark.parametrize("others", [[], ["consolidated.safetensors"], ["other.safetensors"]])
def test_the_usual_file_name_has_precedence(tmp_path: Path, others: list[str]) -> None:
    for name in ["model.safetensors", *others]:
        shard(tmp_path / name, name[0])
    assert read_safetensors_folder(tmp_path).keys() == {"m"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["weights.safetensors"], "w"),
        (["consolidated.safetensors", "weights.safetensors"], "w"),
    ],
)
def test_a_single_file_of_any_name_is_read(tmp_path: Path, names: list[str], chosen: str) -> None:
    for name in names:
        shard(tmp_path / name, name[0])
    assert read_safetensors_folder(tmp_path).keys() == {chosen}


def test_an_index_precedes_native_files_but_not_the_single_file(sharded: Path) -> None:
    shard(sharded / "consolidated.safetensors", "m")
    assert read_safetensors_folder(sharded).keys() == {"a", "b", "c"}
    shard(sharded / "model.safetensors", "m")
    assert read_safetensors_folder(sharded).keys() == {"m"}


def link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def outside(folder: Path) -> Path:
    path = folder.parent / "elsewhere" / TWO
    shard(path, "c")
    return path


def replace_by_folder(folder: Path) -> None:
    (folder / TWO).unlink()
    (folder / TWO).mkdir()


def replace_by_fifo(folder: Path) -> None:
    (folder / TWO).unlink()
    os.mkfifo(folder / TWO)


def only_one_and_a_name_too_long(folder: Path) -> None:
    (folder / TWO).unlink()
    index(folder, {"c": "a" * 300 + ".safetensors"})


def without_index_and_shard_two(folder: Path) -> None:
    (folder / TWO).unlink()
    (folder / "model.safetensors.index.json").unlink()


def two_files_and_no_index(folder: Path) -> None:
    without_index_and_shard_two(folder)
    (folder / ONE).rename(folder / "one.safetensors")
    shard(folder / "two.safetensors", "c")


NO_FILE = "not a safetensors file of its folder"
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda folder: (folder / TWO).unlink(), f"lacks 1 of 2 weight files, such as '{TWO}'"),
    "tensor not in its shard": (lambda folder: index(folder, {"a": TWO, "b": ONE}), f"'a' is in '{TWO}', but"),
    "tensor nowhere": (lambda folder: index(folder, {"a": ONE, "z": ONE}), f"'z' is in '{ONE}', but it is not"),
    "tensor in two shards": (lambda folder: shard(folder / TWO, "b", "c"), "Tensor 'b' is in both"),
    "broken shard": (lambda folder: (folder / TWO).write_bytes(b"<html>"), "is a web page"),
    "shard that is a folder": (replace_by_folder, "not a regular file"),
    "shard that is a FIFO": (replace_by_fifo, "not a regular file"),
    "parent folder": (lambda folder: index(folder, {"c": f"../elsewhere/{TWO}"}), NO_FILE),
    "absolute path": (lambda folder: index(folder, {"c": str(outside(folder))}), NO_FILE),
    "backslashes": (lambda folder: index(folder, {"c": "..\\x.safetensors"}), NO_FILE),
    "pickle": (lambda folder: index(folder, {"c": "pytorch_model.bin"}), NO_FILE),
    "NUL": (lambda folder: index(folder, {"c": "a\0.safetensors"}), NO_FILE),
    "name too long": (only_one_and_a_name_too_long, "lacks 1 of 1 weight files"),
    "escape codes": (lambda folder: index(folder, {"c": "\x1b[2J"}), r"'\x1b[2J'"),
    "number": (lambda folder: index(folder, {"c": 5}), NO_FILE),
    "link outside": (lambda folder: link(folder / TWO, outside(folder)), "outside the model's folder"),
    "link to itself": (lambda folder: link(folder / TWO, folder / TWO), "lacks 1 of 2"),
    "no weight_map": (lambda folder: index(folder, ["a"]), "has no weight_map"),
    "empty weight_map": (lambda folder: index(folder, {}), "has no weight_map"),
    "no index": (without_index_and_shard_two, f"lacks 1 of 2 weight files, such as '{TWO}'"),
    "two files and no index": (two_files_and_no_index, "2 safetensors files and no"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_folders_with_contradictory_files_are_refused(
    sharded: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(sharded)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors_folder(sharded)
    assert words in str(caught.value)
    assert str(sharded) in str(caught.value)
    assert str(caught.value).isprintable()


def test_links_to_single_files_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside(folder))
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        read_safetensors_folder(folder)


@pytest.mark.parametrize(("repository", "allowed"), [("own", True), ("other", False)])
def test_links_of_a_hub_cache_are_followed_into_its_blobs(tmp_path: Path, repository: str, allowed: bool) -> None:
    blob = tmp_path / repository / "blobs" / "0123abcd"
    shard(blob, "a")
    snapshot = tmp_path / "own" / "snapshots" / "89ef"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(Path("../../..") / repository / "blobs" / "0123abcd")
    if allowed:
        assert read_safetensors_folder(snapshot).keys() == {"a"}
    else:
        with pytest.raises(CheckpointError, match="outside the model's folder"):
            read_safetensors_folder(snapshot)


def test_the_error_without_safetensors_names_the_files_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_safetensors_folder(tmp_path)
    with pytest.raises(CheckpointError, match="absent could not be read: No such file"):
        read_safetensors_folder(tmp_path / "absent")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\0.")
    with pytest.raises(UnsupportedModelError, match=r"only pickled weights \('pytorch_model.bin'\)"):
        read_safetensors_folder(tmp_path)
