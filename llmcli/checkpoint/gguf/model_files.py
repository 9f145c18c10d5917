"""Find the language models among the GGUF files of a folder, by file names and the first metadata keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmcli.checkpoint.files.model_files import complete_sets, first_part, gguf_names, missing_parts
from llmcli.checkpoint.files.model_folder import file_names
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.gguf.parser import GGUFValue, parse_general
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError

# `general.type` and `general.architecture` of companion files, as llama.cpp's tools write them.
_COMPANION_TYPES = {
    "mmproj": "the vision or audio part of a model (mmproj)",
    "adapter": "an adapter (LoRA)",
    "imatrix": "statistics for quantization (imatrix)",
}
_COMPANION_ARCHITECTURES = {
    "clip": _COMPANION_TYPES["mmproj"],
    "controlvector": "a control vector",
    "imatrix": _COMPANION_TYPES["imatrix"],
}
_MOST_SHOWN = 12


def companion(metadata: Mapping[str, GGUFValue]) -> str | None:
    """Describe a companion file, which goes with a language model but is none; None if the file may be a model."""
    kind = _COMPANION_TYPES.get(str(metadata.get("general.type")))
    return kind or _COMPANION_ARCHITECTURES.get(str(metadata.get("general.architecture")))


def is_companion(path: Path) -> bool:
    """Whether a GGUF file is a companion of a model. False for an unreadable file: opening it reports the fault."""
    try:
        return companion(parse_general(path)) is not None
    except LlmcliError:
        return False


def gguf_models(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """The complete language models among the GGUF files `names`: label -> its files, shards in order."""
    sets = complete_sets(gguf_names(names))
    return {label: parts for label, parts in sets.items() if not is_companion(folder / parts[0])}


def gguf_of_folder(folder: Path) -> Path:
    """The (first) GGUF file of the only language model in a folder.

    Raises:
        CheckpointError: there is none, or a shard of it is missing.
        UnsupportedModelError: there are several, or only companion files.
    """
    names = file_names(folder)
    models = gguf_models(folder, names)
    # A link beside its target is not a second model.
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
    """The first shard of the split file that `path` belongs to, if it exists; else `path`."""
    first = path.with_name(first_part(path.name))
    return first if first.exists() else path


def refuse_companion(path: Path, metadata: Mapping[str, GGUFValue]) -> None:
    """Raise an `UnsupportedModelError` if the file is only a companion of a model."""
    what = companion(metadata)
    if what is not None:
        raise UnsupportedModelError(
            f"{shown(str(path))} holds {what}, which belongs to a model but is not one; give the model's own file."
        )
