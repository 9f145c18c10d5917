"""Where only the greatest logit is wanted, most of an 8-bit head is not read to the end: the tokens are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmcli.engine import SamplingParams
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import Transformer
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedLinear
from tests.support.kernels.cpu_step import assert_as_one_by_one
from tests.support.models.random_models import pack_model, random_model

GREEDY = SamplingParams(temperature=0, top_k=0)
ROWS = 1500


def packed_model(model_type: str = "llama", **overrides: object) -> Transformer:
    """With a head of 94 row blocks, the last of them not full, and 9 groups of columns, the last not full."""
    sizes = {"vocab_size": ROWS, "hidden_size": 264, "max_position_embeddings": 300, **overrides}
    return pack_model(random_model(model_type, **sizes), 8)


def set_head(model: Transformer, codes: Tensor, scale: Tensor) -> None:
    head = model.lm_head
    assert isinstance(head, QuantizedLinear)
    head.matrix.store(0, 0, Groups(codes, scale, None))


def unread(step: CpuStep, model: Transformer, tokens: int = 5, vocabulary: int = ROWS) -> int:
    """Bytes left unread by one burst."""
    before = step.unread_bytes
    step.forward_burst(7, model.new_cache(), SamplingRequest(GREEDY, [0.0] * tokens, vocabulary))
    return step.unread_bytes - before


@pytest.mark.parametrize("variant", ["native", "avx2", "portable"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_tokens_are_chosen(variant: Variant, threads: int) -> None:
    model = packed_model()
    step = CpuStep(model, threads=threads, library=load_library(variant))
    head = model.lm_head.matrix
    assert isinstance(head, PackedMatrix)
    # At most the lower nibbles of a matrix, which are 16 of 34 bytes.
    assert head.nbytes / 4 < unread(step, model, 1) < head.nbytes * 16 / 34
    assert_as_one_by_one(step, model, GREEDY, 20, 24)


def test_a_draw_takes_all_logits() -> None:
    model = packed_model()
    step = CpuStep(model, threads=2, library=load_library())
    step.forward_burst(7, model.new_cache(), SamplingRequest(SamplingParams(temperature=0.7), [0.5] * 5, ROWS))
    assert step.unread_bytes == 0


@pytest.mark.parametrize(
    ("model_type", "overrides", "screens"),
    [
        ("granite", {"logits_scaling": 3.0}, True),
        ("gemma2", {"final_logit_softcapping": 2.0}, False),
        ("phi", {"hidden_size": 256}, False),
        ("llama", {"vocab_size": 500}, True),
    ],
)
def test_other_heads(model_type: str, overrides: dict[str, object], screens: bool) -> None:
    model = packed_model(model_type, **overrides)
    step = CpuStep(model, threads=2, library=load_library())
    assert (unread(step, model, 1, vocabulary=model.config.vocab_size) != 0) == screens
    assert_as_one_by_one(step, model, GREEDY, 5, 12)


def normed(model: Transformer, token: int) -> Tensor:
    """What the head is multiplied with after a text of one token: (hidden)."""
    found: list[Tensor] = []
    hook = model.norm.register_forward_hook(lambda module, given, out: found.append(out))
    model(torch.tensor([[token]]))
    hook.remove()
    return found[0].flatten()


@torch.no_grad()
def test_lower_nibbles_that_are_not_random_are_noticed() -> None:
    model = packed_model(tie_word_embeddings=False)
    x = normed(model, 7)
    random = torch.Generator().manual_seed(1)
    upper = torch.randint(0, 16, (ROWS, 264), generator=random, dtype=torch.uint8)
    # Those of most rows are as great as they can be in the direction of the token, and those of the best the opposite.
    lower = torch.where(x > 0, 15, 0).to(torch.uint8).expand(ROWS, -1).clone()
    best = int(((upper.float() * 16 - 128) @ x).argmax())
    lower[best] = 15 - lower[best]
    scale = torch.full((ROWS, 9), 0.01, dtype=torch.float16)
    set_head(model, upper * 16 + lower, scale)
    step = CpuStep(model, threads=2, library=load_library())
    expected = int(step.forward([7], model.new_cache())[0].argmax())
    assert expected != best
    assert step.forward_burst(7, model.new_cache(), SamplingRequest(GREEDY, [0.0], ROWS)) == [expected]
    # From then on all is read.
    assert unread(step, model) == unread(step, model, 200) == 0
    assert_as_one_by_one(step, model, GREEDY, 5, 12)


@torch.no_grad()
def test_upper_nibbles_that_say_nothing_are_left_alone() -> None:
    model = packed_model(tie_word_embeddings=False)
    codes = torch.randint(112, 144, (ROWS, 264), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    set_head(model, codes, torch.full((ROWS, 9), 0.1, dtype=torch.float16))
    step = CpuStep(model, threads=2, library=load_library())
    # The first pass has read nearly everything twice; more and more of the next are spared that.
    for spared in (1, 2, 4, 8, 16, 32, 64, 64):
        assert unread(step, model, 1) < 0
        assert unread(step, model, spared) == 0
    assert unread(step, model, 1) < 0
    assert_as_one_by_one(step, model, GREEDY, 5, 12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_not_chosen(value: float) -> None:
    model = packed_model()
    with torch.no_grad():
        model.get_parameter("norm.weight")[:] = value
    step = CpuStep(model, threads=2, library=load_library())
    assert step.forward_burst(3, model.new_cache(), SamplingRequest(GREEDY, [0.0] * 4, ROWS)) == [-1]


@torch.no_grad()
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1000.0])
def test_rows_that_nobody_can_choose(value: float) -> None:
    model = packed_model(tie_word_embeddings=False)
    codes = torch.randint(0, 256, (ROWS, 264), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    scale = torch.full((ROWS, 9), 0.01, dtype=torch.float16)
    scale[1001:] = value
    set_head(model, codes, scale)
    step = CpuStep(model, threads=2, library=load_library())
    assert unread(step, model, 1, vocabulary=1001) > 0
    ids = [7]
    cache = model.new_cache()
    for _ in range(6):
        ids.append(int(step.forward(ids[-1:], cache)[0, :1001].argmax()))
    assert step.forward_burst(7, model.new_cache(), SamplingRequest(GREEDY, [0.0] * 6, 1001)) == ids[1:]
    if value != 1000.0:
        assert step.forward_burst(7, model.new_cache(), SamplingRequest(GREEDY, [0.0], ROWS)) == [-1]
