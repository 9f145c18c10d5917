"""Commands that load no model do not import torch, which would take most of their time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.native_files import mistral_params, native, write_safetensors
from tests.support.models.tiny import edit_config, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.quantized.cases import CASES
from tests.support.quantized.models import save_quantized

# Processes that must not import torch, and some that do.
pytestmark = pytest.mark.slow

# Runs commands one after another in one process; reports each one's exit code and the heavy modules imported so far.
RUNNER = """
import json, sys
from tests.support.terminal.cli import llm
results = []
for arguments in json.loads(sys.argv[1]):
    result = llm(*arguments)
    heavy = [name for name in ("torch", "numpy", "transformers") if name in sys.modules]
    results.append((result.returncode, heavy, result.stdout.decode(), result.stderr.decode()))
print(json.dumps(results))
"""

# Compile the C kernel once, not for every home.
KERNELS = {"XDG_CACHE_HOME": str(platformdirs.user_cache_path())}


def run(*commands: list[str], home: Path, **variables: str) -> list[tuple[int, list[str], str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "XDG_"))}
    environment = {**kept, **KERNELS, "HOME": str(home), "LLMCLI_MODEL": "", **variables}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands)],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [(code, heavy, out, err) for code, heavy, out, err in json.loads(result.stdout)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder, GGUF files with and without tensors that are part of the configuration, and a mixture of experts."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": tiny_checkpoint(folder / "llama", "llama"),
        "gguf": write_gguf(made("llama 2, grouped"), folder / "plain.gguf"),
        "gguf with frequencies": write_gguf(made("llama 3.1"), folder / "frequencies.gguf"),
        "experts": save(made("deepseek v3"), folder / "experts"),
    }


@pytest.mark.parametrize("kind", ["llama", "gguf", "gguf with frequencies", "experts"])
def test_show_describes_a_model_without_torch(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    model = str(models[kind])
    commands = [
        ["show", model],
        ["show", model, "--json"],
        ["config", "generate", "-m", model],
        ["config", "chat", "--model", model, "--json"],
        ["inspect", "tokens", "Hello", "-m", model],
        ["inspect", "tokens", "Hello", "-m", model, "--json"],
        ["inspect", "cost", "Hello", "-m", model],
    ]
    for command, (code, heavy, out, err) in zip(commands, run(*commands, home=tmp_path), strict=True):
        assert (code, heavy) == (0, []), (command, err)
        assert out


@pytest.mark.parametrize(
    ("words", "unneeded"),
    [
        (["config", "generate", "-m"], ["tokenizers", "jinja2", "llmcli.checkpoint.text_assets", "secrets"]),
        (["inspect", "tokens", "Hello", "-m"], ["jinja2"]),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "gguf"])
def test_commands_do_not_import_unused_libraries(
    words: list[str], unneeded: list[str], kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from llmcli.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print([name for name in {unneeded} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words, str(models[kind])],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"


def test_show_describes_quantized_models_without_torch(tmp_path: Path) -> None:
    made_of = tiny_model("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    folders = {name: tmp_path / str(number) for number, name in enumerate(CASES)}
    for name, folder in folders.items():
        save_quantized(made_of, folder, name)
    commands = [["show", str(folder), "--json"] for folder in folders.values()]
    commands += [
        ["config", "generate", "-m", str(folders["nf4 nested"])],
        ["inspect", "tokens", "a", "-m", commands[0][1]],
    ]
    for command, (code, heavy, out, err) in zip(commands, run(*commands, home=tmp_path), strict=True):
        assert (code, heavy) == (0, []), (command, err)
        assert out


@pytest.mark.parametrize("shards", [1, 3])
def test_show_describes_mistral_files_without_torch(shards: int, tmp_path: Path) -> None:
    model = tiny_model("mistral", sliding_window=None)
    plain = write_safetensors(tmp_path / "plain", mistral_params(model), native(model), shards=shards)
    params = {**mistral_params(model), "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
    tensors = {}
    for name, tensor in native(model).items():
        if name.split(".")[-2] in ("wq", "wk", "wv", "wo", "w1", "w2", "w3"):
            tensors[name.removesuffix("weight") + "qscale_weight"] = torch.tensor(1.0)
            tensor = tensor.to(torch.float8_e4m3fn)
        tensors[name] = tensor
    quantized = write_safetensors(tmp_path / "quantised", params, tensors, shards=shards)
    commands = [
        [*words, str(folder)] for folder in (plain, quantized) for words in (["show"], ["config", "chat", "-m"])
    ]
    for command, (code, heavy, out, err) in zip(commands, run(*commands, home=tmp_path), strict=True):
        assert (code, heavy) == (0, []), (command, err)
        assert out


def test_commands_without_a_model_do_not_import_torch(tmp_path: Path) -> None:
    commands = [
        ["list"],
        ["chats", "list"],
        ["prompt", "list"],
        ["config", "bench"],
        ["doctor"],
        ["doctor", "--json"],
    ]
    for command, (code, heavy, _, err) in zip(commands, run(*commands, home=tmp_path), strict=True):
        assert code == 0, (command, err)
        # Whether torch must be asked depends on the machine; see `llmcli.torch_build`.
        assert not heavy or command[0] == "doctor", command


def test_errors_before_a_model_is_loaded(models: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    tiny_checkpoint(broken, "llama")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    wide = tiny_checkpoint(tmp_path / "wide", "llama")
    edit_config(wide, {"intermediate_size": 49})
    quantized = tmp_path / "quantised"
    save_quantized(tiny_model("llama", hidden_size=64, intermediate_size=96), quantized, "int4 groups")
    tensors = load_file(quantized / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    save_file(tensors, quantized / "model.safetensors")
    model = str(models["llama"])
    found = run(
        ["generate", "hi", "-m", "/nowhere"],
        ["generate", "hi", "-m", model, "--top-k", "many"],
        ["generate", "hi", "-m", model, "--temperature", "-1"],
        ["chat", "-m", model, "--top-p", "2"],
        ["pull", "/nowhere"],
        ["show", str(broken)],
        ["show", str(wide)],
        ["inspect", "tokens", "hi", "-m", str(broken)],
        ["show", str(quantized)],
        home=tmp_path,
    )  # fmt: skip
    assert [(code, heavy) for code, heavy, _, _ in found] == [
        (3, []),
        (2, []),
        (2, []),
        (2, []),
        (3, []),
        *4 * [(4, [])],
    ]
    missing = f"llm: {broken} lacks the tensor model.layers.1.mlp.up_proj.weight, which the configuration asks for.\n"
    assert found[5][3] == found[7][3] == missing
    assert "the tensor 'model.layers.0.mlp.up_proj.weight_scale' is missing" in found[8][3]
    shapes = "has shape [48, 32], the configuration says [49, 32]."
    assert found[6][3] == f"llm: {wide}: tensor model.layers.0.mlp.gate_proj.weight {shapes}\n"


def test_doctor_reports_without_torch_what_torch_reports(tmp_path: Path) -> None:
    code = (
        "from llmcli.device import find_device\n"
        "from llmcli.doctor import machine\n"
        "device = find_device('cpu')\n"
        "told = machine._torch_unimported(device)\n"
        "asked = machine._torch_imported(device)\n"
        "assert machine._torch_unimported(device) is None\n"
        "print(told is None or told == asked, told, asked)"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    for threads in ({}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1000"}):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**kept, **threads},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert result.stdout.startswith("True"), result.stdout


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch may have to be asked for devices")
def test_a_dtype_and_a_device_are_checked_without_torch(tmp_path: Path) -> None:
    found = run(["doctor", "--dtype", "float16", "--device", "cpu"], ["doctor", "--dtype", "int3"], home=tmp_path)
    assert [code for code, *_ in found] == [0, 2]
    assert "There is no dtype called 'int3'; use auto, float32, bfloat16, float16." in found[1][3]
