"""Compare the server with the `hf` backend of lm-evaluation-harness, request by request, on a tiny random model.

    python -m tests.clients.lm_eval PYTHON

PYTHON is the interpreter of an environment with lm-eval 0.4.13, its extra "api", torch and transformers. The tasks are
local files; nothing is fetched. Exit code 1 if a log-probability differs by more than 1e-4, or a text at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llmcli
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.server import serving

_TOLERANCE = 1e-4
_DATA = {"dataset_path": "json", "test_split": "test", "output_type": "", "doc_to_text": "{{q}}"}
_TASKS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{q}}",
        "doc_to_text": "",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_target": "{{q}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match"}],
    },
}
_QUESTIONS = [
    {"q": "The capital of France is", "choices": [" Paris", " Rome", " a long answer"], "answer": 0},
    {"q": "Two and two is", "choices": [" four", " five"], "answer": 0},
    {"q": "Café é ü, numbers 1 2 3 and a longer sentence to read", "choices": [" yes", " no"], "answer": 1},
]


def main() -> int:
    """Run both backends and compare their samples."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_checkpoint(folder / "model", "llama", max_position_embeddings=512)
        _write_tasks(folder)
        own = f"pretrained={model},dtype=float32,add_bos_token=False"
        wanted = _samples(folder, "hf", own, folder / "hf")
        with serving(llmcli.load(model, dtype="float32")) as server:
            for batch in ("1", "4"):
                url = f"base_url={server.url}/completions,model=any"
                found = _samples(folder, "local-completions", url, folder / f"served-{batch}", batch=batch)
                if not _alike(wanted, found):
                    return 1
    return 0


def _write_tasks(folder: Path) -> None:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in _QUESTIONS))
    for name, task in _TASKS.items():
        value = {**_DATA, "task": name, "dataset_kwargs": {"data_files": {"test": str(data)}}, **task}
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(value))


def _samples(folder: Path, backend: str, arguments: str, out: Path, *, batch: str = "1") -> dict[str, list[Any]]:
    """The responses of a backend to each task, in the order of the questions."""
    command = [sys.argv[1], "-m", "lm_eval", "--model", backend, "--model_args", arguments, "--batch_size", batch]
    command += ["--tasks", ",".join(_TASKS), "--include_path", str(folder)]
    command += ["--device", "cpu", "--output_path", str(out), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    subprocess.run(command, check=True, env={**os.environ, **offline}, cwd=folder)
    found = {}
    for name in _TASKS:
        [file] = out.rglob(f"samples_{name}_*.jsonl")
        lines = sorted(map(json.loads, file.read_text().splitlines()), key=lambda line: int(line["doc_id"]))
        found[name] = [line["resps"] for line in lines]
    return found


def _alike(wanted: dict[str, list[Any]], found: dict[str, list[Any]]) -> bool:
    worst = 0.0
    for name in ("choice", "rolling"):
        pairs = zip(_numbers(wanted[name]), _numbers(found[name]), strict=True)
        worst = max([worst, *(abs(one - other) for one, other in pairs)])
    same = wanted["writing"] == found["writing"]
    print(f"log-probabilities differ by at most {worst:.2e}; texts are {'the same' if same else 'different'}")
    if worst > _TOLERANCE or not same:
        print(json.dumps({"hf": wanted, "served": found}, indent=1))
    return worst <= _TOLERANCE and same


def _numbers(value: Any) -> list[float]:
    """All log-probabilities in nested lists; lm-eval writes some of them as text."""
    if isinstance(value, list):
        return [number for each in value for number in _numbers(each)]
    try:
        return [] if isinstance(value, bool) or value in ("True", "False") else [float(value)]
    except ValueError:
        return []


if __name__ == "__main__":
    sys.exit(main())
