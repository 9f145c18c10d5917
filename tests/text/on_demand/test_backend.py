"""A tokenizer built for a text gives the same ids as one with the whole vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
from tokenizers import Tokenizer as Backend

from llmcli.text.on_demand.backend import MOST_PARTS, MOST_SEARCHES, OnDemandBackend, covering
from llmcli.text.trusted_encoding import GuardedEncoder, TextSegment
from llmcli.text.vocab.gguf import gguf_backend
from tests.support.text.tokenizers import (
    CORPUS,
    TEXTS,
    byte_level_backend,
    gguf_of_byte_level,
    gguf_of_gemma4,
    gguf_of_sentencepiece,
)

VOCABULARIES: dict[str, Callable[[], dict[str, object]]] = {
    "byte-level BPE": lambda: gguf_of_byte_level(byte_level_backend(), "gpt-2"),
    "byte-level BPE whose words need no merges": lambda: gguf_of_byte_level(byte_level_backend(), "llama-bpe"),
    "SentencePiece": lambda: gguf_of_sentencepiece(prefix=False),
    "SentencePiece that adds a space": lambda: gguf_of_sentencepiece(prefix=True),
    "Gemma 4": gguf_of_gemma4,
}


@pytest.fixture(params=VOCABULARIES)
def metadata(request: pytest.FixtureRequest) -> dict[str, object]:
    return VOCABULARIES[request.param]()


def built(metadata: Mapping[str, object]) -> OnDemandBackend:
    backend, _, _ = gguf_backend(metadata, source="model.gguf")
    assert isinstance(backend, OnDemandBackend)
    return backend


def texts(backend: OnDemandBackend) -> list[str]:
    """Texts of pieces of the vocabulary in random order, spellings of added tokens, and characters without a piece."""
    chance = random.Random(7)
    pieces = [backend.id_to_token(index) or "" for index in range(backend.whole().get_vocab_size())]
    pieces += [piece.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n") for piece in pieces]
    pieces += ["▁", " ", "\n", "ž", "\U0001f9a6", "\0", "\ue000", "e\u0301"]
    mixed = ["".join(chance.choices(pieces, k=chance.randint(1, 40))) for _ in range(40)]
    return [*TEXTS, *CORPUS[:4], *mixed]


def test_ids_and_places_are_those_of_the_whole_vocabulary(metadata: dict[str, object]) -> None:
    whole = built(metadata).whole()
    for text in texts(built(metadata)):
        backend = built(metadata)
        part = covering(backend, text)
        assert part.get_vocab_size() < whole.get_vocab_size()
        ours, theirs = (each.encode(text, add_special_tokens=False) for each in (part, whole))
        assert (ours.ids, ours.offsets, ours.tokens) == (theirs.ids, theirs.offsets, theirs.tokens)


def test_tokens_are_those_of_the_whole_vocabulary(metadata: dict[str, object]) -> None:
    backend = built(metadata)
    whole = backend.whole()
    size = whole.get_vocab_size()
    assert [backend.id_to_token(index) for index in range(size)] == [whole.id_to_token(index) for index in range(size)]
    assert [backend.token_to_id(whole.id_to_token(index) or "") for index in range(size)] == list(range(size))
    assert backend.id_to_token(size) is None
    assert backend.token_to_id("no such piece") is None
    described = {index: (token.content, token.special) for index, token in backend.get_added_tokens_decoder().items()}
    expected = whole.get_added_tokens_decoder().items()
    assert described == {index: (token.content, token.special) for index, token in expected}
    assert backend.encode("The dog").ids == whole.encode("The dog").ids
    assert Backend.from_str(backend.to_str()).encode(" a dog").ids == whole.encode(" a dog").ids


def test_control_tokens_in_untrusted_text_are_text_either_way(metadata: dict[str, object]) -> None:
    whole = built(metadata).whole()
    unknown = 3 if metadata["tokenizer.ggml.model"] == "gemma4" else None
    guarded = GuardedEncoder(whole, unknown, source="model.gguf")
    controls = [token.content for token in whole.get_added_tokens_decoder().values() if token.special]
    chance = random.Random(3)
    for text in texts(built(metadata))[::4]:
        control, other = chance.choice(controls), chance.choice(controls)
        segments = [
            TextSegment(control, trusted=True),
            TextSegment(f"{text}{other}{text}", trusted=False),
            TextSegment(f"{other}\n", trusted=True),
        ]
        ours = GuardedEncoder(built(metadata), unknown, source="model.gguf")
        assert ours.encode(segments) == guarded.encode(segments)
        assert ours.control_spans(text + control) == guarded.control_spans(text + control)


def test_many_or_long_texts_get_the_whole_vocabulary(metadata: dict[str, object]) -> None:
    backend = built(metadata)
    size = backend.whole().get_vocab_size()
    sizes = [covering(backend, f"text {number}").get_vocab_size() for number in range(MOST_SEARCHES + 2)]
    assert sizes[0] < size
    assert sizes[-1] == size
    assert covering(built(metadata), "a" * MOST_SEARCHES * MOST_PARTS).get_vocab_size() == size


def test_the_tokenizer_of_a_recent_text_is_used_again(metadata: dict[str, object]) -> None:
    backend = built(metadata)
    first = covering(backend, "one", "two")
    assert covering(backend, "two") is first
    assert covering(backend, "two", "three") is not first


def test_long_words_are_searched_in_parts() -> None:
    metadata = gguf_of_sentencepiece()
    backend, whole = built(metadata), built(metadata).whole()
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=MOST_PARTS // 4))
    part = covering(backend, text)
    assert backend.searches > 1
    assert part.encode(text, add_special_tokens=False).ids == whole.encode(text, add_special_tokens=False).ids
