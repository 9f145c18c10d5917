"""Every field of every JSON output has an entry on the page about JSON, and every entry a field.

Outputs that take seconds are compared where they are made: an edit, benchmarks.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import typer

from llmcli import cli
from llmcli.checkpoint.edits.edit_file import Edit, LayerUpdate, write_edit
from llmcli.checkpoint.edits.store import edits_folder
from llmcli.docs import pages
from llmcli.kernels.cpu.build import load_library
from llmcli.model import ModelConfig
from llmcli.server.registry import Identity
from tests.support.canned_server import OK, canned_server
from tests.support.manual import json_fields, json_keys, json_tables, undocumented
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

TEXT = "the cat sat"
RUNS = {
    "llm generate": ["generate", TEXT, "-n", "2", "--top", "2", "--attention", "--seed", "1", "--log"],
    "llmcli.choices/1": ["generate", TEXT, "--choices", "a,b"],
    "llmcli.score/1": ["score", TEXT, "--top", "2"],
    "llmcli.attention/1": ["inspect", "attention", TEXT, "--position", "-1"],
    "llmcli.attention-pattern/1": ["inspect", "attention", TEXT, "--layer", "0", "--head", "0"],
    "llmcli.attention-heads/1": ["inspect", "attention", TEXT, "--all-heads"],
    "llmcli.heads/1": ["inspect", "heads", "--ablate", "1"],
    "llmcli.lens/1": ["inspect", "lens", TEXT],
    "llmcli.token/1": ["inspect", "token", "next", TEXT, "--verify"],
    "llmcli.without/1": ["inspect", "without", "cat", TEXT],
    "llmcli.without-words/1": ["inspect", "without", "*", TEXT],
    "llmcli.neurons/1": ["inspect", "neurons", TEXT],
    "llmcli.neuron/1": ["inspect", "neurons", TEXT, "--layer", "0", "--neuron", "1"],
    "llmcli.embeddings/1": ["inspect", "embeddings", "a"],
    "llmcli.tokens/1": ["inspect", "tokens", TEXT],
    "llmcli.needle/1": ["inspect", "needle", "--facts", "2", "--seeds", "2", "--depths", "0"],
    "llmcli.cost/1": ["inspect", "cost", TEXT],
    "llmcli.causal-trace/1": ["trace", TEXT, "--subject", "cat", "--samples", "1"],
}
# Compared in the tests of these commands.
TAKE_SECONDS = {"llmcli.edit/1", "llmcli.bench/1", "llmcli.bench-speculative/1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=600)


def printed(*arguments: object, code: int = 0, stdin: bytes = b"") -> Any:
    """The JSON that a command prints."""
    result = llm(*arguments, stdin=stdin)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def outputs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command prints or writes, by its schema or, without one, by its command."""
    folder = tmp_path_factory.mktemp("home")
    experts = tiny_checkpoint(folder / "experts", "mixtral")
    model_type, changes = RECURRENT["bamba"]
    recurrent = tiny_checkpoint(folder / "recurrent", model_type, **changes)
    # From the shared cache, before the folders change.
    load_library()
    with pytest.MonkeyPatch.context() as environment:
        for name in ("DATA", "CONFIG", "CACHE"):
            environment.setenv(f"XDG_{name}_HOME", str(folder / name))
        found = {schema: printed(*run, "-m", model, "--json") for schema, run in RUNS.items()}
        found["llmcli.state/1"] = printed("inspect", "state", TEXT, "-m", recurrent, "--json")
        found["llmcli.state-routes/1"] = printed(
            "inspect", "state", TEXT, "-m", recurrent, "--hide", "cat", "--answer", "b", "--json"
        )
        found["llmcli.experts/1"] = printed("inspect", "experts", TEXT, "-m", experts, "--json")
        found["llmcli.templates/1"] = printed("show", model, "--template", "--json")
        found["llmcli.plan/1"] = printed("show", model, "--plan", "2x80GB", "--json")
        found["llm show"] = [printed("show", each, "--json") for each in (model, experts)]
        found["llmcli.compare/1"] = printed("compare", model, model, TEXT, "-n", "2", "--json")
        found["llmcli.config/1"] = printed("config", "--json")
        found["llmcli.doctor/1"] = printed("doctor", model, "--json")
        found |= _records(model, folder) | _conversations(model) | _lists(model, folder) | _servers()
    batch = llm(
        "batch", "-", "-m", model, "-n", "2", "--seed", "1", stdin=b'{"prompt": "a"}\n{"prompt": 1}\n'
    ).stdout.splitlines()
    found |= {"Events": _events(model), "Batches": [json.loads(line) for line in batch]}
    for schema, value in found.items():
        if "/" in schema:
            assert value["schema"] == schema
    return found


def _records(model: Path, folder: Path) -> dict[str, Any]:
    """A record, and its replay after a token of it was changed."""
    file = folder / "run.json"
    assert llm("generate", TEXT, "-m", model, "-n", "2", "--seed", "1", "--record", file).returncode == 0
    record = json.loads(file.read_text())
    other = record["tokens"][1] | {"id": (record["tokens"][1]["id"] + 1) % 256}
    file.write_text(json.dumps(record | {"tokens": [record["tokens"][0], other]}))
    return {"llmcli.run/1": record, "llmcli.replay/1": printed("replay", file, "--json", code=1)}


def _conversations(model: Path) -> dict[str, Any]:
    assert llm("chat", "-m", model, "-n", "2", "--seed", "1", stdin=b"hi").returncode == 0
    chats = printed("chats", "list", "--json")
    assert llm("generate", TEXT, "-m", model, "-n", "2", "--seed", "1", "--samples", "2", "--log").returncode == 0
    run = printed("log", "--json", "-n", "1")[0]
    assert printed("chats", "export", chats[0]["id"]).keys() == run.keys()
    assert printed("log", "show", run["id"], "--json") == run
    found = printed("chats", "search", "HI", "--json")
    return {
        "llm chats list": chats,
        "llm chats search": found,
        "llmcli.stats/1": printed("stats", "--json"),
        "llmcli.conversation/1": run,
    }


def _lists(model: Path, folder: Path) -> dict[str, Any]:
    """Lists with one entry each."""
    stored = folder / "DATA" / "llmcli" / "models" / "a.gguf"
    stored.parent.mkdir(parents=True)
    shutil.copy(model / "model.safetensors", stored)
    updates = (LayerUpdate(0, torch.ones(48), torch.ones(32)),)
    write_edit(edits_folder() / "an.safetensors", Edit("m", "0" * 64, "Ulm is in", "Ulm", "Bonn", updates))
    assert llm("prompt", "save", "short", "{input} in {n} words").returncode == 0
    commands = (["list"], ["prompt", "list"], ["prompt", "show", "short"], ["edit", "list"], ["edit", "show", "an"])
    return {" ".join(["llm", *command[:2]]): printed(*command, "--json") for command in commands}


def _servers() -> dict[str, Any]:
    with canned_server(Identity("1", ())) as server:
        server.answers = [OK + b'{"memory_bytes": 1, "idle_s": 2.5, "busy": 0, "requests": 3}']
        return {"llm ps": printed("ps", "--json")}


def _events(model: Path) -> list[Any]:
    """The events of a reply, without those of its tokens: they are as in the reply."""
    flags = ["--attention", "--jsonl", "--samples", "2", "--log"]
    lines = llm("generate", TEXT, "-m", model, "-n", "2", "--seed", "1", *flags).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["event"] for event in events} == {"prefill", "step", "attention", "finish"}
    return [event | {event["event"]: None} for event in events]


def config_fields(kind: Any = ModelConfig) -> set[str]:
    """The fields of a model's configuration and of all its parts."""
    if not is_dataclass(kind):
        return set().union(*map(config_fields, get_args(kind)))
    hints = get_type_hints(kind)
    return {field.name for field in fields(kind)}.union(*map(config_fields, hints.values()))


def test_every_field_of_an_output_is_documented(outputs: dict[str, Any]) -> None:
    known = json_fields()
    for schema, value in outputs.items():
        # Of the statistics of a reply and its tokens.
        shared = known["llm generate"] if schema in ("Events", "Batches") else set()
        assert undocumented(schema, value) <= shared, schema


def test_every_documented_field_is_in_an_output(outputs: dict[str, Any]) -> None:
    # Parts that few models have, and a prompt with a gap.
    rare = {"llm generate": {"suffix"}, "llm show": config_fields()}
    for schemas, names in json_tables():
        if set(schemas) <= set(outputs):
            found = set().union(*(json_keys(schema, outputs[schema]) for schema in schemas))
            assert names - found <= rare.get(schemas[0], set()), schemas


def test_settings_in_json_are_named_as_their_flags(outputs: dict[str, Any]) -> None:
    generate: Any = typer.main.get_command(cli.app)
    # Its only setting with several values has another name.
    flags = {"--dry-sequence-breakers"} | {
        option for parameter in generate.commands["generate"].params for option in parameter.opts
    }
    reply = outputs["llmcli.conversation/1"]["messages"][-1]
    for settings in (outputs["llmcli.run/1"]["settings"], reply["sampling"]):
        assert len(settings) > 20
        assert {"--" + name.replace("_", "-") for name in settings} <= flags


def test_every_part_of_a_models_configuration_is_documented() -> None:
    assert {"rope", "query_rank", "divisors", "glu"} < config_fields() <= json_fields()["llm show"]


def test_every_table_of_fields_is_compared(outputs: dict[str, Any]) -> None:
    assert set(json_fields()) == {*outputs, *TAKE_SECONDS, "JSON"}


def test_every_command_that_prints_json_is_on_the_page() -> None:
    def commands(command: Any, path: str) -> list[str]:
        inner = [name for name, one in getattr(command, "commands", {}).items() if not one.hidden]
        found = [line for name in inner for line in commands(command.commands[name], f"{path} {name}")]
        return found + [path] * any("--json" in parameter.opts for parameter in command.params)

    found = commands(typer.main.get_command(cli.app), "llm")
    assert len(found) > 25
    assert [path for path in found if not re.search(rf"`{path}\b[^`]* --json`", pages.page("json"))] == []
