"""Refuse symbolic links that lead out of a model's folder."""

from __future__ import annotations

from pathlib import Path

from llmcli.checkpoint.files.weight_file import shown
from llmcli.errors import CheckpointError


def inside(folder: Path, name: str) -> Path:
    """The path of a file in `folder`, unless it is a link that leads out of the model.

    Links of a Hugging Face cache into its `blobs` folder are followed.

    Raises:
        CheckpointError: the file is such a link, or a broken one.
    """
    path = folder / name
    try:
        home, place = folder.resolve(), path.resolve()
    except (OSError, RuntimeError):
        raise CheckpointError(f"{path} is a symbolic link that leads nowhere.") from None
    # A Hugging Face cache keeps files in <repository>/blobs and links to them from <repository>/snapshots/<commit>.
    caches = [above.parent.parent for above in (home, *home.parents) if above.parent.name == "snapshots"]
    allowed = [home, *(cache / "blobs" for cache in caches[:1])]
    if not any(place.is_relative_to(root) for root in allowed):
        raise CheckpointError(
            f"{shown(str(path))} is a symbolic link to a file outside the model's folder, which is not read. "
            "Copy the file there."
        )
    return path
