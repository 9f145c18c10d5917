"""A short form of the fuzzer for every test run: the same readers on files with seeded random damage."""

from __future__ import annotations

import random
import zlib

import pytest

from tests.fuzz.targets import TARGETS, survives

pytestmark = pytest.mark.slow

_TOKENS = [
    b"{",
    b"}",
    b"[",
    b'"',
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"\xff",
    b"\0" * 8,
    b"\xff" * 8,
    b"\n",
    b"{%",
    b"%}",
]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few random kinds of damage."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((1, 4, 8, 64)))
        piece = chance.choice(
            (b"", bytes([chance.randrange(256)]), chance.choice(_TOKENS), data[at:to] * 2, data[: chance.randrange(64)])
        )
        data = data[:at] + piece + data[chance.choice((at, to)) :]
    return data if chance.random() > 0.1 else data[: chance.randrange(len(data) + 1)]


@pytest.mark.parametrize("reader", TARGETS)
def test_damaged_input_is_read_or_raises_an_llmcli_error(reader: str) -> None:
    target = TARGETS[reader]
    seeds = target.seeds()
    for seed in seeds:
        target.read(seed)
    chance = random.Random(zlib.crc32(reader.encode()))
    for _ in range(500):
        survives(target, damaged(chance.choice(seeds), chance))
