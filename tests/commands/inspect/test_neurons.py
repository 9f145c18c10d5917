from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmcli
from llmcli.inspection.feed_forward.neurons import neuron_along, neurons
from llmcli.views.terminal.to_json import plain
from tests.support.models.inspected_families import family
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    family("deepseek v3", folder)
    return folder


def test_json_has_the_ranked_neurons(model: Path) -> None:
    loaded = llmcli.load(model, dtype="float32")
    ids = loaded.tokenizer.encode("hello")
    found = json.loads(llm("inspect", "neurons", "hello", "-m", model, "--json").stdout)
    assert found.pop("schema") == "llmcli.neurons/1"
    assert found == plain(neurons(loaded, ids, 5))
    found = json.loads(
        llm("inspect", "neurons", "hello", "-m", model, "--json", "--position", -3, "--target", "z", "--top", 4).stdout
    )
    assert (found["position"], found["target"]["text"], len(found["neurons"])) == (3, "z", 4)


@pytest.mark.parametrize(("layer", "expert"), [(0, None), (1, "shared"), (1, 3)])
def test_json_has_one_neuron_along_the_text(mixture: Path, layer: int, expert: str | int | None) -> None:
    arguments = [] if expert is None else ["--expert", expert]
    result = llm("inspect", "neurons", "hello", "-m", mixture, "--json", "--layer", layer, "--neuron", 7, *arguments)
    found = json.loads(result.stdout)
    loaded = llmcli.load(mixture, dtype="float32")
    of_expert = expert if isinstance(expert, int) else None if expert is None else "shared"
    expected = plain(neuron_along(loaded, loaded.tokenizer.encode("hello"), layer, 7, expert=of_expert))  # type: ignore[arg-type]
    assert found.pop("schema") == "llmcli.neuron/1"
    assert found == expected


def test_the_views(model: Path) -> None:
    ranked = llm("inspect", "neurons", "hello", "-m", model)
    assert ranked.stdout.decode().splitlines()[1].split() == ["neuron", "logit", "fires", "promotes", "suppresses"]
    assert ranked.stderr == b""
    along = llm("inspect", "neurons", "hello", "-m", model, "--layer", 2, "--neuron", 7).stdout.decode()
    assert along.startswith("neuron 2.7: largest activation ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layer", "1"], "together"),
        (["--neuron", "1"], "together"),
        (["--expert", "1"], "--expert needs"),
        (["--layer", "1", "--neuron", "1", "--target", "a"], "does not go with"),
        (["--layer", "1", "--neuron", "1", "--expert", "best"], "best is neither"),
        (["--layer", "1", "--neuron", "48"], "no neuron 48"),
        (["--position", "6"], "no token 6"),
    ],
)
def test_invalid_options_are_usage_errors(model: Path, arguments: list[str], complaint: str) -> None:
    result = llm("inspect", "neurons", "hello", *arguments, "-m", model)
    assert (result.returncode, result.stdout) == (2, b"")
    assert complaint in result.stderr.decode()
