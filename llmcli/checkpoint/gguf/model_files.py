"""Which GGUF files on disk are language models, by their names and by what they say of themselves first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmcli.checkpoint.files.model_files import complete_sets, first_part, gguf_names, missing_parts
from llmcli.checkpoint.files.model_folder import file_names
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.parser import GGUFValue, parse_general
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError

# `general.type` and `general.architecture` of files that go with a model, as llama.cpp's tools write them.
_COMPANION_TYPES = {
    "mmproj": "the part of a model that sees or hears (mmproj)",
    "adapter": "an adapter (LoRA)",
    "imatrix": "statistics for quantisation (imatrix)",
}
_COMPANION_ARCHITECTURES = {
    "clip": _COMPANION_TYPES["mmproj"],
    "controlvector": "a control vector",
    "imatrix": _COMPANION_TYPES["imatrix"],
}
_MOST_SHOWN = 12


def companion(metadata: Mapping[str, GGUFValue]) -> str | None:
    """In words, what a file is that goes with a language model and is none; None: it may be a model."""
    kind = _COMPANION_TYPES.get(str(metadata.get("general.type")))
    return kind or _COMPANION_ARCHITECTURES.get(str(metadata.get("general.architecture")))


def is_companion(path: Path) -> bool:
    """Whether a GGUF file only goes with a model. One that cannot be read is none: opening it says what is wrong."""
    try:
        return companion(parse_general(path)) is not None
    except LlmcliError:
        return False


def gguf_models(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """The complete language models among a folder's GGUF files `names`: a label -> its file, or its parts in order."""
    sets = complete_sets(gguf_names(names))
    return {label: parts for label, parts in sets.items() if not is_companion(folder / parts[0])}


def gguf_of_folder(folder: Path) -> Path:
    """The (first) GGUF file of the only language model among those in a folder.

    Raises:
        CheckpointError: there is none, or a part of it is missing.
        UnsupportedModelError: there are several, or only files that go with a model.
    """
    names = file_names(folder)
    models = gguf_models(folder, names)
    # A link beside the file that it leads to is no second model.
    if len({(folder / parts[0]).resolve() for parts in models.values()}) == 1:
        return folder / next(iter(models.values()))[0]
    if models:
        choices = [str(folder / parts[0]) for parts in models.values()]
        raise UnsupportedModelError(
            f"{folder} holds {len(models)} GGUF models; name the file to use: {', '.join(choices[:_MOST_SHOWN])}"
            + (", ..." if len(choices) > _MOST_SHOWN else ".")
        )
    missing = missing_parts(gguf_names(names))
    if missing:
        raise CheckpointError(
            f"{folder} holds only some parts of a GGUF model: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; download the rest."
        )
    if any(name.lower().endswith(".gguf") for name in names):
        raise UnsupportedModelError(
            f"{folder} holds only GGUF files that go with a model, such as an mmproj file or an adapter; "
            "download the model's own file as well."
        )
    inner = sorted(path for path in folder.glob("*/*") if path.name in gguf_names([path.name]))
    if inner:
        raise CheckpointError(f"{folder} holds no model itself, but its folders do; name the file, such as {inner[0]}.")
    raise CheckpointError(f"{folder} has no config.json, so it is not a model folder.")


def first_part_of(path: Path) -> Path:
    """The first part of the series that a GGUF file is one of, if it is beside it; else the file itself."""
    first = path.with_name(first_part(path.name))
    return first if first.exists() else path


def refuse_companion(path: Path, metadata: Mapping[str, GGUFValue]) -> None:
    """Raise an `UnsupportedModelError` if the file, which was named itself, only goes with a model."""
    what = companion(metadata)
    if what is not None:
        raise UnsupportedModelError(
            f"{shown(str(path))} holds {what}, which belongs to a model but is not one; give the model's own file."
        )
