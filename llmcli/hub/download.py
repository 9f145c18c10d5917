"""Fetch models from the hub into the hub library's cache, with its token handling and offline switch.

A pull fetches everything by the hash of one commit, small files first; the branch in the cache points to that commit
only when all files are there. An interrupted pull keeps its finished files and damages nothing.
"""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmcli.checkpoint.files.model_files import WeightFiles, gguf_sets, small_files, tokenizer_file, weight_files
from llmcli.checkpoint.files.model_folder import FolderIndexes
from llmcli.errors import CheckpointError, LlmcliError, ModelNotFoundError, UnsupportedModelError
from llmcli.files import replace_text, sha256_of
from llmcli.hub.cache import CachedModel, cached_model, cached_models, model_in, repo_folder
from llmcli.hub.errors import OFFLINE, plain_errors
from llmcli.hub.incomplete_downloads import remove_unfinished
from llmcli.hub.loadable import check_text_files
from llmcli.hub.repo_files import HubName, choose_gguf, parse_hub_name
from llmcli.hub.responses import RemoteFile, checked_headers, fetch_listing
from llmcli.hub.store import Progress, no_progress
from llmcli.sizes import size

__all__ = ["CachedModel", "HubName", "cached_model", "cached_models", "fetch_model", "parse_hub_name"]

_POLL_SECONDS = 0.1


def fetch_model(name: str | HubName, progress: Progress = no_progress) -> Path:
    """Update a hub model in the cache; returns its folder, or its (first) GGUF file.

    Fetches only what a model needs: configuration, tokenizer, templates and safetensors; else one GGUF model; else
    `pytorch_model*.bin`. Files that are in the cache already are not fetched again.

    Raises:
        ModelNotFoundError: no such model, access, network or space, or nothing in it that this program can run.
    """
    hub_name = parse_hub_name(name) if isinstance(name, str) else name
    if hub_name is None:
        raise ModelNotFoundError(f"{name!r} is not a hub name; one looks like owner/name or owner/name:Q4_K_M.")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(OFFLINE.format(name=hub_name))
    with _quiet_library(), checked_headers():
        with plain_errors(hub_name):
            commit, files = fetch_listing(hub_name)
        with suppress(OSError):
            remove_unfinished(repo_folder(hub_name.repo))
        download = _Download(hub_name, commit, files, progress)
        download.fetch_model()
    path = model_in(download.snapshot, hub_name)
    if path is None:
        raise ModelNotFoundError(f"{hub_name} was fetched, but {download.snapshot} does not hold a complete model.")
    _set_ref(hub_name, commit)
    return path


class _Download:
    """One pull: the files to fetch, and progress reports."""

    def __init__(self, name: HubName, commit: str, files: Mapping[str, RemoteFile], progress: Progress) -> None:
        self.name = name
        self.commit = commit
        self.files = files
        self.progress = progress
        self.snapshot = repo_folder(name.repo) / "snapshots" / commit

    def fetch_model(self) -> None:
        """Fetch the files that the name means; small files first, because they may rule the model out.

        Raises:
            ModelNotFoundError: the repository has no complete model, or a file cannot be fetched.
            UnsupportedModelError: this program cannot run that kind of model or tokenizer.
        """
        sets = gguf_sets(self.files)
        weights = self._weights() if self.name.quant is None else None
        if weights is None or (sets and weights.layout == "PyTorch"):
            if not sets:
                raise self._no_model()
            self.fetch(choose_gguf(sets, self.name))
            return
        small = small_files(self.files)
        if tokenizer_file(small) is None:
            raise self._lacks("a tokenizer")
        self.fetch(small)
        check_text_files(self.snapshot, small, weights.config)
        self.fetch(list(weights.files))

    def _weights(self) -> WeightFiles | None:
        def shards(index: str) -> list[str]:
            self.fetch([index])
            return FolderIndexes(self.snapshot).shards(index)

        try:
            return weight_files(self.files, shards, where=f"{self.name.repo} on the hub", advice="")
        except UnsupportedModelError:
            raise
        except CheckpointError as error:
            raise ModelNotFoundError(str(error)) from error

    def _no_model(self) -> ModelNotFoundError:
        if self.name.quant is not None:
            what = "no GGUF files"
        elif "config.json" not in self.files and any(
            "/" not in name and name.endswith((".safetensors", ".bin")) for name in self.files
        ):
            return self._lacks("a config.json")
        else:
            what = "no safetensors, GGUF or pytorch_model.bin files"
        return ModelNotFoundError(f"{self.name.repo} holds {what}, so llm cannot run it.")

    def _lacks(self, what: str) -> ModelNotFoundError:
        return ModelNotFoundError(f"{self.name.repo} holds weights but not {what}, so llm cannot run it.")

    def fetch(self, names: list[str]) -> None:
        """Fetch the given files, except those in the cache."""
        missing = [name for name in names if not (self.snapshot / name).is_file()]
        total = sum(self.files[name].bytes for name in missing)
        self._check_space(total)
        done = 0
        for name in missing:
            with self._watching(self.files[name], done, total):
                self._fetch_one(name)
            done += self.files[name].bytes
            self.progress(f"fetching {self.name}", done, total)

    def _fetch_one(self, name: str) -> None:
        from huggingface_hub import hf_hub_download

        with plain_errors(self.name):
            path = Path(hf_hub_download(self.name.repo, name, revision=self.commit))
        if not self._is_whole(path, self.files[name]):
            # Remove link and blob: the next pull would take them for complete.
            with suppress(OSError):
                blob = path.resolve()
                path.unlink()
                blob.unlink(missing_ok=True)
            raise ModelNotFoundError(
                f"{name} of {self.name.repo} arrived damaged (its size or checksum differs) and was deleted; "
                "pull it again."
            )

    def _is_whole(self, path: Path, file: RemoteFile) -> bool:
        if file.bytes and path.stat().st_size != file.bytes:
            return False
        if file.sha256 is None:
            return True
        return sha256_of(path, lambda done: self.progress(f"checking {path.name}", done, file.bytes)) == file.sha256

    def _check_space(self, needed: int) -> None:
        folder = self.snapshot
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ModelNotFoundError(
                f"{self.name.repo} needs {size(needed)} more on the disk of {folder}, "
                f"where {size(free)} are free; free some, or set HF_HOME to a folder on another disk."
            )

    @contextmanager
    def _watching(self, file: RemoteFile, before: int, total: int) -> Iterator[None]:
        """Report how a file grows while the library fetches it.

        The library reports progress only by printing; the names of its unfinished files are the same in all versions.
        """
        finished = threading.Event()
        blobs = self.snapshot.parents[1] / "blobs"

        def watch() -> None:
            while not finished.wait(_POLL_SECONDS):
                size = 0
                with suppress(OSError):
                    size = max((path.stat().st_size for path in blobs.glob(f"{file.blob}*.incomplete")), default=0)
                self.progress(f"fetching {self.name}", before + min(size, file.bytes), total)

        self.progress(f"fetching {self.name}", before, total)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _set_ref(name: HubName, commit: str) -> None:
    """Let the branch or tag in the cache point to `commit`, all of whose files are there now."""
    revision = name.revision or "main"
    if revision == commit:
        return
    ref = repo_folder(name.repo) / "refs" / revision
    try:
        replace_text(ref, commit)
    except OSError as error:
        raise LlmcliError(f"Could not write {ref}: {error.strerror}.") from error


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep the hub library from printing progress bars, retries and advice."""
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils  # its exports are not typed
    level = utils.logging.get_verbosity()
    bars_off = utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils.disable_progress_bars()
        if level == utils.logging.WARNING:  # otherwise the user has set the level
            utils.logging.set_verbosity_error()
        try:
            yield
        finally:
            utils.logging.set_verbosity(level)
            if not bars_off:
                utils.enable_progress_bars()
