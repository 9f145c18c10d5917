"""Models in the hub library's local cache, found without network access.

Documented layout: `models--owner--name/` holds `refs/<branch or tag>` (a commit hash) and `snapshots/<hash>/<file>`,
which are links into `blobs/`. Files there are always complete; a snapshot may lack files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.files.model_files import WeightFiles, quant_of, small_files, weight_files
from llmcli.checkpoint.files.model_folder import FolderIndexes
from llmcli.checkpoint.gguf.model_files import gguf_models
from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.hub.repo_files import HubName, choose_gguf, parse_hub_name

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class CachedModel:
    """A complete model in the hub cache."""

    name: str
    """The name to use it by: `owner/name`, with `:QUANT` or `@revision` if needed."""
    path: Path
    """Its folder, or its (first) GGUF file."""
    bytes: int
    modified: float
    """Seconds since the epoch."""
    kind: str
    """"GGUF", "safetensors" or "PyTorch"."""


def cache_folder() -> Path:
    """The hub library's cache folder; its environment variables apply."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """The folder of a repository in the cache; it may not exist."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def cached_model(name: str | HubName) -> Path | None:
    """The folder or (first) GGUF file of a complete model in the cache, by hub name; None if it is not there.

    Complete means configuration, tokenizer and all shards: an interrupted pull does not count.
    """
    hub_name = parse_hub_name(name) if isinstance(name, str) else name
    if hub_name is None:
        return None
    folder = _snapshot(repo_folder(hub_name.repo), hub_name.revision or "main")
    return None if folder is None else model_in(folder, hub_name)


def model_in(snapshot: Path, name: HubName) -> Path | None:
    """The complete model that `name` means in a snapshot folder, or None."""
    names = list(_files(snapshot))
    if name.quant is None and weights_in(snapshot, names) is not None:
        return snapshot
    with suppress(ModelNotFoundError):
        sets = gguf_models(snapshot, names)
        if sets:
            return snapshot / choose_gguf(sets, name)[0]
    return None


def cached_models() -> list[CachedModel]:
    """All complete models in the cache; damaged or unreadable ones are skipped."""
    found: list[CachedModel] = []
    with suppress(OSError):
        for folder in sorted(cache_folder().glob("models--*--*")):
            with suppress(OSError):
                found.extend(_models_of(folder))
    return found


def remove_cached(name: HubName) -> int:
    """Remove a model from the cache; returns the bytes freed.

    `owner/name` removes the repository with all its revisions, `owner/name:QUANT` only that GGUF file.

    Raises:
        ModelNotFoundError: the model is not in the cache.
        LlmcliError: the file system refuses.
    """
    folder = repo_folder(name.repo)
    try:
        if name.quant is None and name.revision is None:
            if not folder.is_dir():
                raise ModelNotFoundError(f"{name} is not in the hub cache.")
            freed = _tree_bytes(folder / "blobs")
            shutil.rmtree(folder)
            shutil.rmtree(cache_folder() / ".locks" / folder.name, ignore_errors=True)
            return freed
        path = cached_model(name)
        if path is None or path.is_dir():
            what = "is not in the hub cache" if path is None else "is one of several revisions of a repository"
            raise ModelNotFoundError(f"{name} {what}; `llm rm {name.repo}` removes all of {name.repo}.")
        snapshot = _snapshot(folder, name.revision or "main")
        assert snapshot is not None
        return sum(_remove_file(folder, snapshot / part) for part in _parts(snapshot, path))
    except OSError as error:
        raise LlmcliError(f"Could not remove {name} from the hub cache: {error.strerror}.") from error


def weights_in(snapshot: Path, names: list[str]) -> WeightFiles | None:
    """The weights among a snapshot's `names`, in the layout of Transformers, Mistral or Meta.

    None if a file that loading needs is missing, or if the small files describe an unsupported model.
    """
    # Imported here, because it knows all families of models, and most models need no look into this cache.
    from llmcli.hub.loadable import check_text_files

    with suppress(LlmcliError):
        weights = weight_files(names, FolderIndexes(snapshot).shards, where=str(snapshot))
        if weights is not None:
            check_text_files(snapshot, names, weights.config)
            return weights
    return None


def _snapshot(folder: Path, revision: str) -> Path | None:
    """The snapshot folder of a branch, tag or commit; None if it does not exist."""
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            with (folder / "refs" / revision).open(encoding="ascii") as file:
                commit = file.read(64).strip()
        except (OSError, ValueError):
            return None
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _files(snapshot: Path) -> Iterator[str]:
    """Names of the files in a snapshot whose content exists, relative to it."""
    for folder, folders, names in os.walk(snapshot):
        folders[:] = [name for name in folders if len(Path(folder, name).relative_to(snapshot).parts) <= 3]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(snapshot).as_posix()


def _models_of(folder: Path) -> Iterator[CachedModel]:
    owner, _, rest = folder.name.removeprefix("models--").partition("--")
    repo = f"{owner}/{rest}"
    if parse_hub_name(repo) is None:
        return
    revisions = sorted(path for path in (folder / "refs").rglob("*") if path.is_file())
    seen: set[Path] = set()
    # "main" first: another branch or tag of the same commit is the same model, and is skipped.
    for ref in sorted(revisions, key=lambda path: path.name != "main"):
        revision = ref.relative_to(folder / "refs").as_posix()
        snapshot = _snapshot(folder, revision)
        if snapshot is None or snapshot in seen:
            continue
        seen.add(snapshot)
        at = "" if revision == "main" else f"@{revision}"
        names = list(_files(snapshot))
        weights = weights_in(snapshot, names)
        if weights is not None:
            kind = "safetensors" if weights.files[0].endswith(".safetensors") else "PyTorch"
            files = [*small_files(names), *weights.files, *([weights.index] if weights.index else [])]
            yield _described(f"{repo}{at}", snapshot, snapshot, files, kind)
        sets = gguf_models(snapshot, names)
        for label, parts in sets.items():
            alone = len(sets) == 1 and weights is None
            quant = "" if alone else f":{quant_of(label)}"
            yield _described(f"{repo}{quant}{at}", snapshot / parts[0], snapshot, parts, "GGUF")


def _described(name: str, path: Path, snapshot: Path, files: list[str], kind: str) -> CachedModel:
    statuses = [(snapshot / file).stat() for file in files]
    return CachedModel(name, path, sum(s.st_size for s in statuses), max(s.st_mtime for s in statuses), kind)


def _parts(snapshot: Path, first: Path) -> list[str]:
    """All files of the GGUF model whose first file is `first`."""
    name = first.relative_to(snapshot).as_posix()
    return next(parts for parts in gguf_models(snapshot, list(_files(snapshot))).values() if parts[0] == name)


def _remove_file(folder: Path, path: Path) -> int:
    """Remove one link of a snapshot, and its blob unless another snapshot uses it; returns the bytes freed."""
    blob = path.resolve()
    size = blob.stat().st_size
    path.unlink()
    others = (link for link in (folder / "snapshots").rglob("*") if link.is_symlink() and link.resolve() == blob)
    if any(True for _ in others):
        return 0
    if blob.parent == (folder / "blobs").resolve():
        blob.unlink(missing_ok=True)
    return size


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
