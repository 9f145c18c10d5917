from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmcli
from llmcli.inspection.token_card import inspect_token
from llmcli.views.terminal.to_json import plain
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "gemma2", head_dim=8, final_logit_softcapping=2.0)


@pytest.mark.parametrize(("argument", "index"), [("2", 2), ("-1", 5), ("-4", 2), ("next", 6), ("6", 6)])
def test_json_has_the_token_card(model: Path, argument: str, index: int) -> None:
    result = llm("inspect", "token", argument, "hello", "-m", model, "--json", "--top", 2)
    found = json.loads(result.stdout)
    loaded = llmcli.load(model, dtype="float32")
    expected = plain(inspect_token(loaded, loaded.tokenizer.encode("hello"), index, top=2))
    assert found.pop("schema") == "llmcli.token/1"
    assert found == expected
    assert {"token", "candidates", "read", "lens", "attribution", "verify"} <= found.keys()
    assert {"logit", "mean_logit", "embedding", "blocks", "heads", "neurons"} <= found["attribution"].keys()


def test_a_target_and_its_verification(model: Path, tmp_path: Path) -> None:
    html = tmp_path / "card.html"
    result = llm(
        "inspect", "token", "-1", "-", "-m", model, "--target", "z", "--verify", "--top", 2, "--html", html,
        stdin=b"hello",
    )  # fmt: skip
    view = " ".join(result.stdout.decode().split())
    assert result.returncode == 0
    assert view.startswith("token 5 z ")
    assert "(not in the text)" in view
    assert "before the soft cap of 2" in view
    assert "all 4 of them" in view
    page = html.read_text(encoding="utf-8")
    assert '"ablations"' in page
    assert "later layers are not counted." in " ".join(page.split())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["0", "hello"], "no token is before it"),
        (["7", "hello"], "no token 7"),
        (["-9", "hello"], "no token -9"),
        (["last", "hello"], "last is no place"),
        (["1", "hello", "--target", "zz"], "2 tokens"),
        (["1", "hello", "--verfy"], "--verfy"),
    ],
)
def test_invalid_options_are_usage_errors(model: Path, arguments: list[str], complaint: str) -> None:
    result = llm("inspect", "token", *arguments, "-m", model)
    assert (result.returncode, result.stdout) == (2, b"")
    assert complaint in result.stderr.decode()
