from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import llmcli
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.errors import CheckpointError, UsageError
from llmcli.inspection.residual.embeddings import (
    EmbeddingNeighbors,
    embedding_neighbors,
    parse_expression,
    read_embedding,
)
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.text.tokenizers import metaspace_backend

WORDS = ("king", "man", "woman", "queen", "apple")


def made_tokenizer() -> Tokenizer:
    """Every byte, the WORDS with a space before them, "or" without one, and a hole in the ids behind them."""
    vocabulary = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in (*(f"Ġ{word}" for word in WORDS), "or"):
        for end in range(2, len(word) + 1):
            merge = (word[: end - 1], word[end - 1])
            vocabulary.setdefault("".join(merge), len(vocabulary))
            if merge not in merges:
                merges.append(merge)
    vocabulary["Ġlast"] = len(vocabulary) + 2
    backend = Backend(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, {}, source="made")


TOKENIZER = made_tokenizer()
IDS = {word: TOKENIZER.encode(f" {word}")[0] for word in WORDS}


def matrix(rows: int = 0) -> torch.Tensor:
    """Random, but for two directions that make the words what they are; and with a large common part."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(TOKENIZER.vocab_size + rows, 24, generator=generator) * 0.3
    royal, male, female = torch.eye(24)[:3] * 2
    for word, parts in (("king", royal + male), ("queen", royal + female), ("man", male), ("woman", female)):
        values[IDS[word]] = 0.3 * values[IDS[word]] + parts
    return values + 1.0


def neighbours(values: torch.Tensor, text: str, top: int = 10, values_at_once: int = 1 << 24) -> EmbeddingNeighbors:
    expression = parse_expression(TOKENIZER, text)
    return embedding_neighbors(TOKENIZER, values, expression, top=top, values_at_once=values_at_once)


@pytest.mark.parametrize("at_once", [1 << 24, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("king", {"king": 1}),
        ("king - man + woman", {"king": 1, "man": -1, "woman": 1}),
        ("- man + apple", {"man": -1, "apple": 1}),
    ],
)
def test_embedding_rankings_are_cosines_of_the_sum(
    text: str, terms: dict[str, int], dtype: torch.dtype, at_once: int
) -> None:
    values = matrix().to(dtype)
    result = neighbours(values, text, top=10_000, values_at_once=at_once)
    known = [index for index in range(len(values)) if TOKENIZER.piece(index)]
    exact = values.double()
    for ranking, origin in ((result.raw, 0), (result.centred, exact[known].mean(0))):
        target = torch.stack([sign * (exact[IDS[word]] - origin) for word, sign in terms.items()]).sum(0)
        expected = {index: float(F.cosine_similarity(exact[index] - origin, target, dim=0)) for index in known}
        assert [near.id for near in ranking] == sorted(known, key=lambda index: -expected[index])
        assert [near.cosine for near in ranking] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)


def test_the_analogy_that_was_planted_is_found_and_inputs_are_marked() -> None:
    result = neighbours(matrix(), "king - man + woman", top=3)
    assert result.centred[0].text == " queen"
    assert [(term.sign, term.word, term.token.bytes) for term in result.expression] == [
        (1, "king", b" king"), (-1, "man", b" man"), (1, "woman", b" woman"),
    ]  # fmt: skip
    assert {near.text for near in (*result.raw, *result.centred) if near.input} <= {" king", " man", " woman"}
    word = neighbours(matrix(), "king", top=2)
    for ranking in (word.raw, word.centred):
        assert (ranking[0].bytes, ranking[0].input) == (b" king", True)
        assert ranking[0].cosine == pytest.approx(1)
        assert not ranking[1].input


def test_rows_without_a_token_are_ignored() -> None:
    plain = neighbours(matrix(), "king", top=10_000)
    padded = matrix(rows=5)
    hole = TOKENIZER.vocab_size - 2
    assert not TOKENIZER.piece(hole)
    for row in (hole, *range(TOKENIZER.vocab_size, len(padded))):
        padded[row] = 100 * padded[IDS["king"]]
    result = neighbours(padded, "king", top=10_000)
    assert {near.id for near in result.raw} == {near.id for near in plain.raw}
    assert len(result.centred) == TOKENIZER.vocab_size - 2
    assert max(near.id for near in result.centred) < TOKENIZER.vocab_size
    # And not in the mean.
    other = neighbours(padded[: TOKENIZER.vocab_size], "king", top=10_000)
    assert (result.centred, result.random_pair) == (other.centred, other.random_pair)


def test_random_pairs_have_the_common_component() -> None:
    values = matrix()
    first = neighbours(values, "king").random_pair
    assert first.raw > 0.8
    assert abs(first.centred) < 0.05
    assert neighbours(values, "apple").random_pair == first
    expression = parse_expression(TOKENIZER, "king")
    other = embedding_neighbors(TOKENIZER, values, expression, seed=1).random_pair
    assert other != first
    assert other.raw == pytest.approx(first.raw, abs=0.02)


def test_a_token_without_a_space_is_used_if_there_is_no_other() -> None:
    (term,) = parse_expression(TOKENIZER, "or")
    assert (term.token.bytes, term.spaced) == (b"or", False)
    (term,) = parse_expression(TOKENIZER, "king")
    assert (term.token.bytes, term.spaced) == (b" king", True)
    assert [term.sign for term in parse_expression(TOKENIZER, " -  king − man\n")] == [-1, -1]


@pytest.mark.parametrize(
    "text",
    ["", " ", "king man", "king -", "+ -", "king - - man", "king + + man", "-", "king -man", "king - man woman"],
)
def test_malformed_expressions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="as in: king - man"):
        parse_expression(TOKENIZER, text)


def test_words_of_several_tokens_are_refused_by_their_pieces() -> None:
    with pytest.raises(UsageError, match=r"'kings' is 2 tokens .*\(' king', 's'\)"):
        parse_expression(TOKENIZER, "apple + kings")
    with pytest.raises(UsageError, match=r"is 3 tokens .*\('<', '\|', '>'\)"):
        parse_expression(TOKENIZER, "<|>")


def test_the_unknown_token_is_not_a_word() -> None:
    tokenizer = Tokenizer(metaspace_backend(), {"unk_token": "<unk>"}, source="made")
    (term,) = parse_expression(tokenizer, "the")
    assert (term.token.bytes, term.spaced) == (b" the", True)
    for word in ("№", "№№"):
        with pytest.raises(UsageError, match=f"'{word}' is not in this vocabulary"):
            parse_expression(tokenizer, f"the - {word}")


@pytest.mark.parametrize("case", ["llama 3.2, tied", "gemma 2", "granite", "gpt-2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedding_is_that_of_the_model(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model_type, overrides = CASES[case]
    model = tiny_model(model_type, **overrides).to(dtype)
    folder = save(model, tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    read = read_embedding(checkpoint, checkpoint.read_text_parts().tokenizer)
    assert read.dtype == dtype
    # As stored: Gemma and Granite scale what they look up.
    assert torch.equal(read, model.get_input_embeddings().weight)
    assert torch.equal(read.float(), llmcli.load(folder, dtype="float32").model.embed_tokens.weight)


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "m", "llama", vocab_size=100))
    with pytest.raises(CheckpointError, match="embeddings for 100"):
        read_embedding(checkpoint, checkpoint.read_text_parts().tokenizer)
