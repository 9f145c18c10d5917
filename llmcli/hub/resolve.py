"""Find the files of a model by its name, and fetch them if necessary."""

from __future__ import annotations

import difflib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.files.model_files import weight_files
from llmcli.checkpoint.files.model_folder import FolderIndexes, file_names
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.model_files import first_part_of
from llmcli.errors import LlmcliError, ModelNotFoundError, UsageError
from llmcli.hub import cache, starter, store
from llmcli.hub.aliases import alias_target, aliases
from llmcli.hub.repo_files import HubName, parse_hub_name
from llmcli.hub.store import Progress, no_progress


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine that can be used by its name."""

    name: str
    path: Path
    bytes: int
    modified: float
    """Seconds since the epoch."""
    kind: str
    """"GGUF", "safetensors" or "PyTorch"."""
    place: str
    """"store", "hub cache" or "package"."""


def resolve(name: str | None, *, fetch: bool = True, progress: Progress | None = None) -> Path:
    """The folder or GGUF file of the model called `name` (None: the starter model).

    Order: a path, an alias, the names of the starter model, a file in the model store, a hub name. With `fetch`, a
    missing model is fetched; otherwise it is an error.

    Raises:
        ModelNotFoundError: no model has that name, or it could not be fetched.
    """
    report = progress or no_progress
    if name is None:
        return _starter(fetch, report)
    if not name.strip():
        raise ModelNotFoundError("The model's name is empty; give a path, a hub name like owner/name, or `starter`.")
    path = _existing_path(name)
    if path is not None:
        return path
    meant = alias_target(name)
    if meant is not None:
        name = meant
        path = _existing_path(name)
        if path is not None:
            return path
    if starter.STARTER.called(name):
        return _starter(fetch, report)
    entry = store.find(name)
    if entry is not None:
        return entry.path
    if name.startswith((".", "/", "~")) or name.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"There is no file or folder {shown(name)}.")
    hub_name = parse_hub_name(name)
    if hub_name is None:
        raise ModelNotFoundError(f"No model is called {shown(name)} here{_nearest(name)}. {_HOW_TO_PULL}")
    cached = cache.cached_model(hub_name)
    if cached is not None:
        return cached
    if not fetch:
        raise ModelNotFoundError(f"{hub_name} is not on this machine; `llm pull {hub_name}` fetches it.")
    from llmcli.hub.download import fetch_model

    return fetch_model(hub_name, report)


def missing_model(name: str) -> str | None:
    """What to say of a model that can be fetched but is not on this machine; None for one that is.

    Raises:
        ModelNotFoundError: no model has that name, and none could be fetched by it.
    """
    try:
        resolve(name, fetch=False)
        return None
    except UsageError:  # the file of aliases is damaged, and may hold this name
        return None
    except ModelNotFoundError as error:
        name = alias_target(name) or name
        is_path = name.startswith((".", "/", "~")) or name.lower().endswith(".gguf")
        if starter.STARTER.called(name) or (parse_hub_name(name) is not None and not is_path):
            return str(error)
        raise


def pull(name: str, progress: Progress = no_progress) -> Path:
    """Like `resolve`, but updates a hub model that is in the cache already."""
    from llmcli.hub.download import fetch_model

    hub_name = _as_hub_name(name)
    return resolve(name, progress=progress) if hub_name is None else fetch_model(hub_name, progress)


def local_models() -> list[LocalModel]:
    """All models that can be used without fetching anything."""
    found = [
        LocalModel(entry.path.stem, entry.path, entry.bytes, entry.modified, "GGUF", "store")
        for entry in store.entries()
    ]
    packaged = starter.starter_path()
    if packaged is not None and packaged not in [model.path for model in found]:
        status = packaged.stat()
        found.insert(0, LocalModel(packaged.stem, packaged, status.st_size, status.st_mtime, "GGUF", "package"))
    found += [
        LocalModel(model.name, model.path, model.bytes, model.modified, model.kind, "hub cache")
        for model in cache.cached_models()
    ]
    return found


def removable(name: str) -> LocalModel:
    """The model in the store or the hub cache that `remove` would delete.

    Raises:
        UsageError: the name means a user's own file or folder, or a file of an installed package.
        ModelNotFoundError: no model has that name.
    """
    wanted = starter.STARTER.file_name if starter.STARTER.called(name) else name
    entry = store.find(wanted)
    if entry is not None:
        return LocalModel(entry.path.stem, entry.path, entry.bytes, entry.modified, "GGUF", "store")
    if _stat(name) is not None:
        raise UsageError(f"{name!r} is your own file or folder; `llm rm` removes only models that were pulled.")
    if starter.STARTER.called(name):
        packaged = starter.starter_path()
        if packaged is not None:
            raise UsageError(f"{packaged} belongs to an installed package, so `llm rm` leaves it alone.")
        raise ModelNotFoundError("The starter model is not in the model store.")
    hub_name = parse_hub_name(name)
    folder = None if hub_name is None else cache.repo_folder(hub_name.repo)
    if hub_name is None or folder is None or not folder.is_dir():
        raise ModelNotFoundError(f"No pulled model is called {name!r}{_nearest(name)}; `llm list` shows them.")
    same = [model for model in cache.cached_models() if model.name.partition("@")[0].startswith(hub_name.repo)]
    if hub_name.quant is None and hub_name.revision is None:
        size = sum(path.lstat().st_size for path in (folder / "blobs").glob("*"))
        kind = same[0].kind if same else "incomplete"
        return LocalModel(str(hub_name), folder, size, folder.stat().st_mtime, kind, "hub cache")
    path = cache.cached_model(hub_name)
    if path is None or path.is_dir():
        raise ModelNotFoundError(f"{hub_name} cannot be removed by itself; `llm rm {hub_name.repo}` removes all of it.")
    model = next(model for model in same if model.path == path)
    return LocalModel(str(hub_name), path, model.bytes, model.modified, model.kind, "hub cache")


def remove(model: LocalModel) -> None:
    """Delete a model that `removable` returned.

    Raises:
        LlmcliError: it was removed meanwhile, or the file system refuses.
    """
    hub_name = parse_hub_name(model.name) if model.place == "hub cache" else None
    if hub_name is not None:
        cache.remove_cached(hub_name)
    elif model.place == "store":
        store.remove(model.path.name)
    else:
        raise LlmcliError(f"{model.path} is not in the model store or the hub cache, so it is not removed.")


_HOW_TO_PULL = "`llm pull owner/name` fetches a model from the hub, `llm list` shows what is here; see llm help models."


def _starter(fetch: bool, progress: Progress) -> Path:
    path = starter.starter_path()
    if path is not None:
        return path
    if not fetch:
        raise ModelNotFoundError("The starter model is not on this machine; `llm pull starter` fetches it.")
    return starter.fetch_starter(progress)


def _as_hub_name(name: str) -> HubName | None:
    """The hub name that `resolve` would use for `name`; None if it would find a local model first."""
    if _stat(name) is None:
        name = alias_target(name) or name
    if _stat(name) is not None or starter.STARTER.called(name) or store.find(name) is not None:
        return None
    return parse_hub_name(name)


def _existing_path(name: str) -> Path | None:
    """The model at a path: a folder, a GGUF file, or the folder of another file of a model."""
    status = _stat(name)
    if status is None:
        return None
    path = Path(name).expanduser()
    if stat.S_ISDIR(status.st_mode):
        return path
    if not stat.S_ISREG(status.st_mode):
        raise ModelNotFoundError(f"{name!r} is neither a file nor a folder; give a model's folder or a .gguf file.")
    if path.suffix.lower() == ".gguf" or _has_gguf_magic(path):
        return first_part_of(path)
    if path.suffix.lower() in (".safetensors", ".json", ".bin", ".pth", ".model"):
        _refuse_unused(path)
        return path.parent
    raise ModelNotFoundError(f"{name!r} is not a model; give a model's folder or a .gguf file.")


def _refuse_unused(path: Path) -> None:
    """Raise an error if `path` is a weight file that the model in its folder does not use."""
    if path.suffix.lower() in (".json", ".model"):
        return
    weights = None
    with suppress(LlmcliError):  # opening the folder reports it
        weights = weight_files(file_names(path.parent), FolderIndexes(path.parent).shards, where=str(path.parent))
    if weights is not None and path.name not in weights.files:
        raise ModelNotFoundError(
            f"{shown(str(path))} is not among the files of the model in its folder, which is read from "
            f"{weights.files[0]}; give the folder itself, or put the file into a separate folder."
        )


def _stat(name: str) -> os.stat_result | None:
    """The status of the path `name`, with links and "~" resolved; None if it does not exist."""
    try:
        return Path(name).expanduser().stat()
    except PermissionError as error:
        raise ModelNotFoundError(f"{name!r} cannot be read: {error.strerror}.") from error
    except (OSError, ValueError, RuntimeError):  # absent, too long, a NUL in it, no such user
        return None


def _has_gguf_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise ModelNotFoundError(f"{str(path)!r} cannot be read: {error.strerror}.") from error


def _nearest(name: str) -> str:
    known = [model.name for model in local_models()] + [starter.STARTER.aliases[0]]
    with suppress(UsageError):
        known += aliases()
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    return "" if not close else f" (did you mean {' or '.join(by_lower[candidate] for candidate in close)}?)"
