"""Folders of this program on this machine, as each platform places them."""

from __future__ import annotations

import os
from pathlib import Path

_NAME = "llmcli"


def config_folder() -> Path:
    """Folder of files that users write: `config.toml`, aliases, prompt templates."""
    import platformdirs

    return Path(platformdirs.user_config_dir(_NAME))


def settings_path() -> Path:
    """The settings file, `config.toml`."""
    return config_folder() / "config.toml"


def data_folder() -> Path:
    """Folder of files that must not be lost: models, conversations, edits."""
    import platformdirs

    return Path(platformdirs.user_data_dir(_NAME, appauthor=False))


def cache_folder() -> Path:
    """Folder of files that can be made again: compiled kernels, hashes, statistics."""
    import platformdirs

    return Path(platformdirs.user_cache_dir(_NAME, appauthor=False))


def server_folder() -> Path:
    """The folder of sockets and state files of running servers. It may not exist yet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / _NAME if runtime else data_folder() / "run"
