"""Embeddings of n-grams: hashes and sums written out for single tokens, and texts in pieces."""

from __future__ import annotations

import pytest
import torch

from llmcli.model import GatedResidualConfig, LayerConfig, ModelConfig, NgramConfig
from llmcli.model.cache.state import State
from llmcli.model.residual.ngram_embeddings import NgramEmbeddings

END = 7
_NGRAM = NgramConfig(12, (3, 77, 1001, 5), (11, 13, 17, 19, 23, 29), rows=120, boundary=END, conv_width=3)
_CONFIG = ModelConfig(
    vocab_size=40, hidden_size=6, intermediate_size=8, num_heads=2, num_kv_heads=2, head_dim=4, context_length=64,
    norm_eps=1e-5, layers=(LayerConfig(None, ngram=_NGRAM),), gated_residual=GatedResidualConfig(2, 3),
)  # fmt: skip
# Two ends in a row, and one at each end.
IDS = [END, 3, 12, 39, END, END, 5, 6, 8, 9, END, 1, 2, END]


class _Kept:
    """The state of the n-grams of layer 0, in the place behind those of the layers."""

    now: State | None = None

    def state(self, layer: int) -> State | None:
        assert layer == 1
        return self.now

    def store(self, layer: int, state: State) -> None:
        assert layer == 1
        self.now = state


@torch.no_grad()
def made() -> NgramEmbeddings:
    torch.manual_seed(0)
    embeddings = NgramEmbeddings(_CONFIG, _NGRAM, 0)
    for parameter in embeddings.parameters():
        parameter.normal_(0, 0.5)
    return embeddings


def written_out(ids: list[int], at: int) -> list[int]:
    """The rows of the token at a place."""
    before = [END] * 3 + ids[: at + 1]
    rows, start = [], 0
    for tokens in (2, 3, 4):
        seen, ended = [before[-1]], False
        for back in range(1, tokens):
            token = END if ended else before[-1 - back]
            ended = ended or token == END
            seen.append(token)
        mixed = 0
        for token, multiplier in zip(seen, _NGRAM.multipliers, strict=False):
            mixed ^= token * multiplier
        for part in _NGRAM.parts[2 * tokens - 4 : 2 * tokens - 2]:
            rows.append(mixed % part + start)
            start += part
    return rows


def test_hashes_do_not_reach_across_the_end_of_a_text() -> None:
    rows = made().rows(torch.tensor([[END] * 3 + IDS]))
    assert rows[0].tolist() == [written_out(IDS, at) for at in range(len(IDS))]
    # What is before an end does not matter.
    assert written_out(IDS, 8) == written_out([1, *IDS[5:9]], 4)
    assert written_out(IDS, 9) != written_out([1, *IDS[7:10]], 3)


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
@torch.no_grad()
def test_a_text_in_pieces_gives_what_the_whole_gives(piece: int) -> None:
    embeddings, kept = made(), _Kept()
    x, ids = torch.randn(1, len(IDS), 12), torch.tensor([IDS])
    parts = [
        embeddings(x[:, start : start + piece], ids[:, start : start + piece], kept)
        for start in range(0, len(IDS), piece)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), embeddings(x, ids, None))
    assert kept.now is not None and kept.now.ids is not None
    assert kept.now.ids.tolist() == [IDS[-3:]]
    # Two inputs of the convolution, four tokens apart.
    assert kept.now.tail.shape == (1, 8, 12)
    assert _CONFIG.state_bytes(4) == kept.now.nbytes


@torch.no_grad()
def test_a_gate_of_each_stream_decides_how_much_of_the_value_it_gets() -> None:
    embeddings = made()
    embeddings.conv.weight.zero_()
    x, ids = torch.randn(1, len(IDS), 12), torch.tensor([IDS])
    added = embeddings(x, ids, None)
    rows = embeddings.table(embeddings.rows(torch.tensor([[END] * 3 + IDS])))[0].flatten(1)
    for at, row in enumerate(rows):
        keys = embeddings.key_norm(embeddings.key_proj(row).view(2, 6))
        queries = embeddings.query_norm(x[0, at].view(2, 6))
        fits = (keys * queries).sum(-1, keepdim=True) / 6**0.5
        expected = torch.sigmoid(fits.sign() * fits.abs().sqrt()) * embeddings.value_proj(row)
        torch.testing.assert_close(added[0, at].view(2, 6), expected)
