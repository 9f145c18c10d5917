"""Tiny checkpoints, made once and cached on disk for all tests, workers and runs."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from tests.support.models import tiny


def shared_checkpoint(model_type: str, *, seed: int = 0, **overrides: Any) -> Path:
    """The folder of a random model of a family. It is shared: use `tiny_checkpoint` to change a file.

    Arguments are those of `tiny.tiny_model`. The name of the folder depends on them, on the versions of the libraries
    that make and write the weights, and on the source of `tiny`.
    """
    made_of = [model_type, seed, overrides, _makers()]
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    folder = platformdirs.user_cache_path("llmcli-tests") / "checkpoints" / key
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                made = tiny.save(tiny.tiny_model(model_type, seed=seed, **overrides), Path(unfinished, "checkpoint"))
                made.rename(folder)
    return folder


def tiny_checkpoint(folder: Path, model_type: str, *, seed: int = 0, **overrides: Any) -> Path:
    """A copy of a shared checkpoint in `folder`, which may be changed."""
    shutil.copytree(shared_checkpoint(model_type, seed=seed, **overrides), folder, dirs_exist_ok=True)
    return folder


@functools.cache
def _makers() -> list[str]:
    source = Path(tiny.__file__).read_bytes()
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "safetensors")]
    return [*libraries, hashlib.sha256(source).hexdigest()]
