"""GGUF headers: valid files are read, and any other file is refused quickly with one sentence."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.checkpoint.gguf.header import GGUFHeader, read_gguf
from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.checkpoint.gguf.parser import parse_header
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.errors import CheckpointError, UnsupportedModelError

U8, I32, U32, BOOL, STRING, ARRAY, U16 = 0, 5, 4, 7, 8, 9, 2
F32, Q4_0, Q4_K, IQ2_XXS, Q1_0 = 0, 2, 12, 16, 41


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + content


def number(key: str, value: int, kind: int = U32) -> bytes:
    return pair(key, kind, struct.pack("<" + {U32: "I", U16: "H", I32: "i"}[kind], value))


def tensor(name: str | bytes = "w", dims: Iterable[int] = (64, 2), kind: int = F32, offset: int = 0) -> bytes:
    dims = tuple(dims)
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(
    pairs: Iterable[bytes] = (),
    tensors: Iterable[bytes] = (),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
    data: int = 512,
) -> bytes:
    pairs, tensors = list(pairs), list(tensors)
    counts = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + bytes(i % 251 for i in range(data))


GOOD = file(
    [
        pair("general.architecture", STRING, text("llama")),
        number("llama.block_count", 2),
        pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 3, text("a") + text("") + text("é"))),
        pair("flags", ARRAY, array(BOOL, 2, b"\1\0")),
    ],
    [tensor("a"), tensor("b", (32, 4, 2), Q4_0, 512)],
    data=512 + 8 * 18,
)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], GGUFHeader]:
    def from_bytes(content: bytes) -> GGUFHeader:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return read_gguf(path)

    return from_bytes


def test_metadata_and_tensors_equal_those_of_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    expected: dict[str, Any] = {"general.architecture": "llama"}
    for name, value in {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4 << 29, "int32": -(1 << 31),
        "uint64": (1 << 64) - 1, "int64": -(1 << 63), "float32": 0.25, "float64": 1e300, "bool": True,
        "string": "Grüße", "array": [[1, 2], [3]],
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(f"x.{name}", value)
        expected[f"x.{name}"] = value
    for name, values in {
        "ints": [1, -2, 3],
        "floats": [0.5, -1.5],
        "bools": [True, False],
        "strings": ["a", "▁b"],
    }.items():
        writer.add_array(f"x.{name}", values)
        expected[f"x.{name}"] = values
    values = np.random.default_rng(0).standard_normal((6, 64), dtype=np.float32)
    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
    for kind in kinds:
        quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"t.{kind}", quantized, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_gguf(path)
    assert header.metadata == expected
    assert [type(value) for value in header.metadata.values()] == [type(value) for value in expected.values()]
    reference = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert header.tensors.keys() == reference.keys()
    with TensorReader() as reader:
        for kind in kinds:
            info, theirs = header.tensors[f"t.{kind}"], reference[f"t.{kind}"]
            assert (info.shape, info.offset, info.nbytes) == ((6, 64), theirs.data_offset, theirs.n_bytes)
            target = torch.empty(info.shape)
            reader.read_into(info, target)
            assert np.array_equal(target.numpy(), gguf.quants.dequantize(theirs.data, theirs.tensor_type))


def test_a_valid_file_is_read(read: Callable[[bytes], GGUFHeader]) -> None:
    header = read(GOOD)
    assert (header.version, header.alignment) == (3, 32)
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "", "é"]
    assert {info.name: (info.shape, info.encoding) for info in header.tensors.values()} == {
        "a": ((2, 64), "F32"),
        "b": ((2, 4, 32), "Q4_0"),
    }
    version_2 = read(GOOD.replace(b"GGUF\3", b"GGUF\2"))
    assert (version_2.metadata, version_2.tensors) == (header.metadata, header.tensors)


def test_headers_longer_than_the_first_read(tmp_path: Path) -> None:
    tokens = [f"token {index}" * (index % 7) for index in range(500)]
    content = file(
        [
            pair("before", ARRAY, array(I32, 100, struct.pack("<100i", *range(100)))),
            pair("tokens", ARRAY, array(STRING, 500, b"".join(map(text, tokens)))),
        ],
        [tensor(f"t{index}", offset=512 * index) for index in range(20)],
        data=512 * 20,
    )
    path = tmp_path / "long.gguf"
    path.write_bytes(content)
    whole = parse_header(path)
    assert whole.metadata["tokens"] == tokens
    for first in (8, 9, 64, 1000):
        assert parse_header(path, first_read=first) == whole


def test_alignments_other_than_the_default(read: Callable[[bytes], GGUFHeader]) -> None:
    header = read(file([number("general.alignment", 128)], [tensor(offset=128)], alignment=128, data=640))
    assert header.alignment == 128
    assert header.tensors["w"].offset % 128 == 0


def test_bytes_that_are_not_utf_8(read: Callable[[bytes], GGUFHeader]) -> None:
    header = read(
        file(
            [
                pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, text(b"\xe2\x96") + text(b"\xff"))),
                pair("general.name", STRING, text(b"caf\xe9")),
            ]
        )
    )
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert [str(token).encode("utf-8", "surrogateescape") for token in tokens] == [b"\xe2\x96", b"\xff"]
    assert header.get_str("general.name") == "caf�"


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", ARRAY, 1) * depth + array(U8, 1, b"\0")


HUGE = 1 << 62
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "letters only": (b"GGUF", "cut short"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "Git LFS pointer"),
    "web page": (b"\n<!DOCTYPE html><html><body>404", "web page"),
    "JSON error": (b'{"error": "Repository not found"}', "JSON document"),
    "ZIP": (b"PK\x03\x04\x14\0\0\0", "ZIP archive"),
    "pickle": (b"\x80\x02}q\0.", "Python pickle"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "older GGML": (b"tjgg\3\0\0\0", "older than GGUF"),
    "safetensors": (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32"', "safetensors file"),
    "noise": (b"\x93NUMPY" * 20, "does not begin with the letters GGUF"),
    "version 1": (file(version=1), "version 1;"),
    "version 9": (file(version=9), "version 9;"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "array of 2^62 bytes": (file([pair("x", ARRAY, array(U8, HUGE))], data=0)[:49], f"{HUGE} elements"),
    "array longer than the file": (file([pair("x", ARRAY, array(I32, 4000))]), "too short"),
    "string of 2^63 bytes": (file([pair("x", STRING, struct.pack("<Q", 1 << 63))]), "cut short"),
    "string in an array": (file([pair("x", ARRAY, array(STRING, 2, struct.pack("<Q", HUGE)))]), "cut short"),
    "key of 2^63 bytes": (file([struct.pack("<Q", 1 << 63)]), "metadata key has"),
    "2^63 keys": (file(counts=(0, 1 << 63)), "metadata keys"),
    "more keys than fit": (file(counts=(0, 1000)), "metadata keys, for which it is too short"),
    "2^63 tensors": (file(counts=(1 << 63, 0)), "tensors"),
    "arrays nested 10000 deep": (file([pair("x", ARRAY, nested(10000))]), "nested"),
    "many empty arrays": (file([pair("x", ARRAY, array(ARRAY, 1 << 20, array(U8, 0) * (1 << 20)))]), "array elements"),
    "unknown value type": (file([pair("x", 13, b"\0" * 8)]), "unknown type 13"),
    "unknown array type": (file([pair("x", ARRAY, array(77, 1, b"\0" * 8))]), "array of unknown type 77"),
    "key twice": (file([number("x", 1), number("x", 1)]), "'x' occurs twice"),
    "key that is no text": (file([pair(b"\xff\xfe", U8, b"\0")]), "not UTF-8"),
    "alignment 0": (file([number("general.alignment", 0)]), "power of two"),
    "alignment 48": (file([number("general.alignment", 48)]), "power of two"),
    "alignment 2^31": (file([number("general.alignment", 1 << 31)]), "power of two"),
    "alignment in words": (file([pair("general.alignment", STRING, text("32"))]), "whole number"),
    "no dimensions": (file(tensors=[tensor(dims=())]), "0 dimensions"),
    "5 dimensions": (file(tensors=[tensor(dims=(2, 2, 2, 2, 2))]), "5 dimensions"),
    "2^32 - 1 dimensions": (file(tensors=[text("w") + b"\xff" * 40]), "dimensions"),
    "dimension 0": (file(tensors=[tensor(dims=(0, 4))]), "no dimension may be 0"),
    "dimensions that wrap to 0": (file(tensors=[tensor(dims=(1 << 32, 1 << 32))]), "cut short"),
    "dimensions that wrap to 128": (file(tensors=[tensor(dims=((1 << 63) + 64, 2))]), "cut short"),
    "rows of half a block": (file(tensors=[tensor(dims=(48, 2), kind=Q4_0)]), "rows of 48 values"),
    "K-quant rows of 128": (file(tensors=[tensor(dims=(128, 2), kind=Q4_K)]), "rows of 128 values"),
    "grid rows of 128": (file(tensors=[tensor(dims=(128, 2), kind=IQ2_XXS)]), "IQ2_XXS needs a multiple of 256"),
    "grid cut short": (file(tensors=[tensor(dims=(256, 8), kind=IQ2_XXS)]), "goes up to"),
    "unsupported type": (file(tensors=[tensor("blk.7", kind=Q1_0)]), "'blk.7' is stored as Q1_0, which is not"),
    "removed type": (file(tensors=[tensor(kind=4)]), "stored as Q4_2, which is not supported"),
    "unknown type": (file(tensors=[tensor(kind=99)]), "unknown type 99"),
    "tensor twice": (file(tensors=[tensor(), tensor(offset=512)], data=1024), "two tensors 'w'"),
    "tensor name that is no text": (file(tensors=[tensor(b"\xff")]), "not UTF-8"),
    "data past the end": (file(tensors=[tensor()], data=511), "goes up to"),
    "offset past the end": (file(tensors=[tensor(offset=1 << 62)]), "goes up to"),
    "offset that is not aligned": (file(tensors=[tensor(offset=4)], data=600), "not aligned"),
    "tensors that overlap": (file(tensors=[tensor("a"), tensor("b", offset=256)], data=1024), "'b' overlaps"),
    "escape codes in a name": (file(tensors=[tensor("\x1b[2J", kind=99)]), r"'\x1b[2J'"),
    "part without its name": (file([number("split.count", 2, U16), number("split.no", 0, U16)]), "one of 2 parts"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN)
def test_damaged_files_are_refused_with_little_memory(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert peak < 3 * len(content) + (2 << 20)


@pytest.mark.parametrize("case", ["version 1", "big-endian", "unsupported type", "removed type"])
def test_valid_files_of_unsupported_kinds_are_refused(read: Callable[[bytes], GGUFHeader], case: str) -> None:
    with pytest.raises(UnsupportedModelError):
        read(BROKEN[case][0])


def test_a_file_truncated_anywhere_is_refused(read: Callable[[bytes], GGUFHeader]) -> None:
    for length in range(len(GOOD)):
        with pytest.raises(CheckpointError):
            read(GOOD[:length])


def answers(read: Callable[[bytes], GGUFHeader], content: bytes) -> GGUFHeader | None:
    """The header, whose tensors must be inside the file; None if the file was refused with a `CheckpointError`."""
    try:
        header = read(content)
    except CheckpointError:
        return None
    for info in header.tensors.values():
        assert 0 <= info.offset <= info.offset + info.nbytes <= len(content)
    return header


def test_random_damage_is_refused_or_harmless(read: Callable[[bytes], GGUFHeader]) -> None:
    generator = random.Random(0)
    head = len(GOOD) - 512 - 8 * 18
    refused = 0
    for _ in range(3000):
        content = bytearray(GOOD)
        for _ in range(generator.randint(1, 4)):
            # Bytes that are likely to break counts, lengths and types.
            content[generator.randrange(4, head)] = generator.choice([0, 1, 9, 127, 128, 255, generator.randrange(256)])
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        refused += answers(read, bytes(content)) is None
    assert 1000 < refused < 3000


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    keys=st.integers(0, 3),
    tensors=st.integers(0, 3),
    body=st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.integers(0, 14).map(lambda n: struct.pack("<I", n)),
            st.one_of(st.integers(0, 9), st.integers(0, (1 << 64) - 1)).map(lambda n: struct.pack("<Q", n)),
            st.text(max_size=5).map(text),
        ),
        max_size=30,
    ).map(b"".join),
)
def test_random_bytes_after_the_counts(
    read: Callable[[bytes], GGUFHeader], keys: int, tensors: int, body: bytes
) -> None:
    answers(read, b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body)


def write_parts(folder: Path, count: int = 3, total: int = 3) -> list[Path]:
    paths = []
    for index in range(count):
        pairs = [
            number("split.no", index, U16),
            number("split.count", count, U16),
            number("split.tensors.count", total, I32),
        ]
        if index == 0:
            pairs.append(pair("general.architecture", STRING, text("llama")))
        paths.append(folder / f"m-q4-{index + 1:05d}-of-{count:05d}.gguf")
        paths[-1].write_bytes(file(pairs, [tensor(f"t{index}")]))
    return paths


def test_a_split_file_is_read_from_any_of_its_shards(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    headers = [read_gguf(path) for path in paths]
    assert headers[0] == headers[1] == headers[2]
    assert headers[0].get_str("general.architecture") == "llama"
    assert {name: info.path for name, info in headers[0].tensors.items()} == dict(
        zip(("t0", "t1", "t2"), paths, strict=True)
    )


def rename_all(paths: list[Path]) -> None:
    for index, path in enumerate(paths):
        path.rename(path.with_name(f"{index}.gguf"))
    paths[:] = [path.with_name(f"{index}.gguf") for index, path in enumerate(paths)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda paths: paths[1].unlink(), "m-q4-00002-of-00003.gguf is missing"),
        (lambda paths: paths[2].write_bytes(paths[1].read_bytes()), "m-q4-00003-of-00003.gguf is not part 3"),
        (lambda paths: paths[1].write_bytes(GOOD), "'split.no'"),
        (lambda paths: write_parts(paths[0].parent, total=4), "3 tensors instead of 4"),
        (rename_all, "original names"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    tmp_path: Path, spoil: Callable[[list[Path]], object], words: str
) -> None:
    paths = write_parts(tmp_path)
    spoil(paths)
    with pytest.raises(CheckpointError) as caught:
        read_gguf(paths[0])
    assert words in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes().replace(text("t1"), text("t0")))
    with pytest.raises(CheckpointError, match=r"'t0' is in both .*00001-of.* and .*00002-of"):
        read_gguf(paths[2])


TYPED: dict[str, tuple[Any, Any, Any]] = {
    "get_int": (7, 7, 9),
    "get_float": (0.5, 0.5, 9.0),
    "get_str": ("x", "x", "d"),
    "get_bool": (False, False, True),
}
WRONG: dict[str, list[object]] = {
    "get_int": [True, 7.0, "7", [7]],
    "get_float": [True, "0.5", [0.5], float("nan"), float("inf")],
    "get_str": [1, ["x"]],
    "get_bool": [1, "true"],
}


@pytest.mark.parametrize("method", TYPED)
def test_metadata_is_read_with_its_type(method: str) -> None:
    stored, expected, default = TYPED[method]
    header = GGUFHeader(Path("m.gguf"), {"k": stored}, 3, {}, 32)
    get = getattr(header, method)
    assert (get("k"), type(get("k"))) == (expected, type(expected))
    assert get("absent", default) == default
    with pytest.raises(CheckpointError, match=r"m\.gguf lacks the metadata key 'absent'"):
        get("absent")


@pytest.mark.parametrize(("method", "value"), [(method, value) for method in WRONG for value in WRONG[method]])
def test_metadata_of_the_wrong_type_is_refused(method: str, value: Any) -> None:
    header = GGUFHeader(Path("m.gguf"), {"k": value}, 3, {}, 32)
    with pytest.raises(CheckpointError, match=r"m\.gguf: metadata key 'k' must be"):
        getattr(header, method)("k")


def test_whole_numbers_are_accepted_as_floats(read: Callable[[bytes], GGUFHeader]) -> None:
    assert read(file([number("rope", 10000)])).get_float("rope") == 10000.0


def test_an_empty_key_is_refused(read: Callable[[bytes], GGUFHeader]) -> None:
    with pytest.raises(CheckpointError, match="a metadata key is empty"):
        read(file([pair("", STRING, text("x"))]))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 6, 7, 8, 10, 11, 12])
def test_token_types_must_be_32_bit_integers(read: Callable[[bytes], GGUFHeader], kind: int) -> None:
    with pytest.raises(CheckpointError, match=rf"token_type' has an array of type {kind}, where 32-bit whole numbers"):
        read(file([pair("tokenizer.ggml.token_type", ARRAY, array(kind, 2, bytes(16)))]))


@pytest.mark.parametrize("kind", [U32, I32])
def test_token_types_may_be_signed(read: Callable[[bytes], GGUFHeader], kind: int) -> None:
    header = read(file([pair("tokenizer.ggml.token_type", ARRAY, array(kind, 2, struct.pack("<2i", 1, 3)))]))
    types = header.metadata["tokenizer.ggml.token_type"]
    assert not isinstance(types, int | float | str)
    assert list(types) == [1, 3]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("block_count", 4294967295, "'llama.block_count' = 4294967295, which is more than any model has"),
        (
            "block_count",
            10**9,
            "'llama.block_count' = 1000000000: it asks for 1000000000 layers, but holds only 0 tensors",
        ),
        ("block_count", 0, "'llama.block_count' = 0; a whole number from 1"),
        ("context_length", 10**12, "'llama.context_length' = 1000000000000, which is more than any model has"),
        ("context_length", 1e4, "'llama.context_length' must be a whole number"),
        ("feed_forward_length", -3, "'llama.feed_forward_length' = -3; a whole number from 1"),
        ("feed_forward_length", [0, 0], "'llama.feed_forward_length' = 0; a whole number from 1"),
    ],
)
def test_absurd_counts_are_refused_by_name(key: str, value: Any, words: str) -> None:
    keys = ArchitectureKeys(GGUFHeader(Path("m.gguf"), {f"llama.{key}": value}, 3, {}, 32), "llama")
    with pytest.raises(CheckpointError) as caught:
        keys.layers() if key == "block_count" else keys.integer(key)
    assert words in str(caught.value)
