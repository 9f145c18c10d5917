from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli.engine import SamplingParams, Step
from llmcli.errors import UsageError
from llmcli.hub.starter import fetch_starter, starter_path
from llmcli.inspection.evaluation.perplexity import score
from llmcli.views.widgets.token_table import colored, sparkline
from tests.support.models.puppet import BOS, chain, ids_of, write_puppet
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> llmcli.LoadedModel:
    model = tiny_model("llama", max_position_embeddings=600)
    return llmcli.load(save(model, tmp_path_factory.mktemp("model")), dtype="float32")


def test_scores_equal_one_pass_over_the_text(loaded: llmcli.LoadedModel) -> None:
    ids = random_ids(400)
    result = score(loaded, ids, top=3)
    logprobs = loaded.logits(ids).log_softmax(-1)[:-1]
    own = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert (result.tokens[0].logprob, result.windows, len(result.tokens)) == (None, 1, 400)
    assert [token.logprob for token in result.tokens[1:]] == pytest.approx(own.tolist(), abs=1e-4)
    assert [token.rank for token in result.tokens[1:]] == ((logprobs > own[:, None]).sum(1) + 1).tolist()
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    assert [token.entropy for token in result.tokens[1:]] == pytest.approx(entropy.tolist(), abs=1e-4)
    assert [[c.id for c in token.top] for token in result.tokens[1:]] == logprobs.topk(3).indices.tolist()
    assert result.perplexity == pytest.approx(math.exp(-float(own.mean())), rel=1e-4)
    # One byte a token.
    assert result.bits_per_byte == pytest.approx(-float(own.mean()) / math.log(2), rel=1e-4)


@pytest.mark.parametrize("window", [2, 3, 10, 64, 299])
def test_every_token_of_a_long_text_is_scored_once_with_half_a_window_before_it(
    loaded: llmcli.LoadedModel, window: int
) -> None:
    ids = random_ids(300)
    seen: list[tuple[int, int]] = []
    result = score(loaded, ids, window=window, progress=lambda done, total: seen.append((done, total)))
    assert [token.index for token in result.tokens] == list(range(300))
    assert seen == [(done, 300) for done in range(2, 301)]
    assert result.windows > 1
    for token in result.tokens[1:]:
        before = [
            float(loaded.logits(ids[start : token.index]).log_softmax(-1)[-1][token.id])
            for start in range(max(0, token.index - window + 1), max(0, token.index - window // 2) + 1)
        ]
        assert min(abs((token.logprob or 0) - value) for value in before) < 1e-4
        if token.index > 40:
            break


@pytest.mark.parametrize(
    ("options", "computed_by", "tolerance"),
    [
        ({"dtype": "float32"}, "cpu kernel", 1e-4),
        # For many tokens, torch multiplies dequantized weights with activations of the same dtype.
        ({"dtype": "bfloat16"}, "cpu kernel", 0.1),
        ({"quantize": "int8"}, "int8", 0.02),
        ({"quantize": "int4"}, "int4", 0.02),
        ({"dtype": "float16"}, "readable model, cpu, float16 (", 0.02),
    ],
)
def test_a_reply_is_scored_as_it_was_generated(
    tmp_path: Path, options: dict[str, str], computed_by: str, tolerance: float
) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=96, max_position_embeddings=128)
    loaded = llmcli.load(save(model, tmp_path), device="cpu", **options)  # type: ignore[arg-type]
    ids = random_ids(20)
    steps = [
        event
        for event in loaded.engine().stream(ids, SamplingParams(seed=3, max_tokens=20), top=2)
        if isinstance(event, Step)
    ]
    result = score(loaded, [*ids, *(step.id for step in steps)], top=2)
    assert computed_by in result.path
    scored = result.tokens[len(ids) :]
    assert [token.logprob for token in scored] == pytest.approx([step.logprob for step in steps], abs=tolerance)
    assert [token.entropy for token in scored] == pytest.approx([step.entropy for step in steps], abs=tolerance)


def test_the_readable_model_scores_on_request(loaded: llmcli.LoadedModel) -> None:
    ids = random_ids(50)
    fast, readable = (score(loaded, ids, readable=asked) for asked in (False, True))
    assert (fast.path[:10], readable.path) == ("cpu kernel", "readable model, cpu, float32 (as asked)")
    assert [token.logprob for token in fast.tokens[1:]] == pytest.approx(
        [token.logprob for token in readable.tokens[1:]], abs=1e-4
    )


def test_logits_of_a_long_text_are_never_held_together(loaded: llmcli.LoadedModel) -> None:
    ids = random_ids(100)
    prefix_cache = loaded.prefix_cache()
    assert prefix_cache.begin(ids, len(ids)) == 0
    at_once = 7 * loaded.tokenizer.vocab_size + 5
    pieces = [rows.clone() for rows in prefix_cache.read_along(ids, logits_at_once=at_once)]
    assert [len(rows) for rows in pieces] == [7] * 14 + [100 % 7]
    logprobs = torch.cat(pieces).log_softmax(-1)[:-1]
    own = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert own.tolist() == pytest.approx([token.logprob for token in score(loaded, ids).tokens[1:]], abs=1e-4)


def test_a_text_of_one_token_is_refused(loaded: llmcli.LoadedModel) -> None:
    for ids in ([], [5]):
        with pytest.raises(UsageError, match="cannot be scored"):
            score(loaded, ids)


def test_the_score_command_and_its_json(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "m", {BOS: {ids_of(b"a")[0]: 0.5, ids_of(b"b")[0]: 0.5}, **chain(b"xyz")})
    text = tmp_path / "text.txt"
    text.write_bytes(b"a\r\n")
    by_file = json.loads(llm("score", text, "-m", model, "--json", "--top", 2).stdout)
    assert by_file == json.loads(llm("score", "-m", model, "--json", "--top", 2, stdin=b"a").stdout)
    assert by_file == json.loads(llm("score", "a", "-m", model, "--json", "--top", 2).stdout)
    assert by_file["schema"] == "llmcli.score/1"
    first, second = by_file["tokens"]
    assert (first["id"], first["logprob"], first["top"]) == (BOS, None, [])
    assert math.exp(second["logprob"]) == pytest.approx(0.5, rel=1e-2)
    assert {candidate["text"] for candidate in second["top"]} == {"a", "b"}
    assert (second["bytes"], second["top"][0].keys()) == ("YQ==", {"id", "text", "logprob", "bytes"})
    assert by_file["path"].startswith("cpu kernel")
    readable = json.loads(llm("score", "a", "-m", model, "--json", "--readable").stdout)
    # Processors with bfloat16 instructions compute in it.
    assert re.fullmatch(r"readable model, cpu, (b?float\d\d) \(as asked\)", readable["path"])
    assert (by_file["perplexity"], by_file["bits_per_byte"]) == pytest.approx((2, 1), rel=1e-2)
    table = llm("score", "a", "-m", model, "--top", 2)
    assert "50." in table.stdout.decode() and "perplexity 2.0" in table.stdout.decode()
    chat = json.loads(llm("score", "a", "-m", model, "--json", "--chat").stdout)
    assert len(chat["tokens"]) == 5
    assert llm("score", "", "-m", model).returncode == 2
    page, picture = tmp_path / "score.html", tmp_path / "score.svg"
    shown = llm("score", "a", "-m", model, "--html", page, "--svg", picture)
    assert b"perplexity" in shown.stdout
    for exported in (page, picture):
        content = exported.read_text()
        assert "perplexity" in content.replace("&#160;", " ") and "50%+" in content
        assert "://" not in content.replace("http://www.w3.org/", "") and "@font-face" not in content


def test_colors_cover_the_whole_text(loaded: llmcli.LoadedModel) -> None:
    text = "héllo 😀\n\x1b[2J\xa0"
    tokens = [(loaded.tokenizer.token_bytes(token), 0.5) for token in loaded.tokenizer.encode(text)]
    assert colored(tokens).plain == "<|bos|>héllo 😀\n␛[2J\xa0"


def test_sparklines_are_as_long_as_asked_and_rise_with_surprise() -> None:
    assert sparkline([0.0, 4.0, 8.0, 15.9, 99.0]) == "▁▃▅██"
    assert len(sparkline([1.0] * 1000)) == 60


@pytest.mark.starter
def test_the_starter_scores_its_own_reply_as_it_generated_it() -> None:
    starter = llmcli.load(starter_path() or fetch_starter(), device="cpu")
    ids = starter.tokenizer.encode("The capital of France is Paris. The capital of Germany is")
    greedy = SamplingParams(temperature=0, max_tokens=24)
    steps = [event for event in starter.engine().stream(ids, greedy) if isinstance(event, Step)]
    result = score(starter, [*ids, *(step.id for step in steps)])
    assert "int4" in result.path
    assert [token.logprob for token in result.tokens[len(ids) :]] == pytest.approx(
        [step.logprob for step in steps], abs=2e-2
    )
