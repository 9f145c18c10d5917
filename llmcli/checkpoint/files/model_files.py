"""Decide which files of a folder, snapshot or repository make up a model: one rule for `list`, `pull` and loading.

Works on file names alone; the only file contents needed are those of an index, which the caller reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from llmcli.checkpoint.files.weight_file import shown
from llmcli.errors import CheckpointError, LlmcliError, UnsupportedModelError

Layout: TypeAlias = Literal["safetensors", "PyTorch", "consolidated safetensors", "consolidated PyTorch"]
ReadIndex: TypeAlias = Callable[[str], Sequence[str]]
"""Returns the shard names in an index such as `model.safetensors.index.json`; `LlmcliError` if it is damaged."""

SAFETENSORS_INDEX, SAFETENSORS_SINGLE = "model.safetensors.index.json", "model.safetensors"
# Names that older versions of transformers use.
TORCH_INDEX, TORCH_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"

VOCABULARY_FILES = ("vocab.json", "merges.txt")
"""A byte-level BPE tokenizer in the format before `tokenizer.json`: both files are needed."""

# The last two are vocabularies in tiktoken's format, of Kimi and Hunyuan.
_TOKENIZERS = ("tokenizer.json", "tekken.json", "tokenizer.model", "tiktoken.model", "hy.tiktoken")
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "params.json",
    *_TOKENIZERS,
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
_NAMED_TEMPLATE = re.compile(r"additional_chat_templates/[\w.-]+\.jinja")
_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)")
_META_PART = re.compile(r"consolidated\.(\d{2})\.pth")
# Companion files of a model, as llama.cpp's tools name them.
_COMPANION = re.compile(r"mmproj|imatrix")
_QUANT = re.compile(r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32|FP16|FP32))$", re.IGNORECASE)


def model_name(path: Path) -> str:
    """The display name of the model in a folder or a GGUF file."""
    return path.resolve().name if path.is_dir() else path.stem


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights in the layout of Transformers, Mistral or Meta."""

    layout: Layout
    files: tuple[str, ...]
    """The file names, in order."""
    index: str | None = None
    """The index that lists `files`, if one does."""
    notes: tuple[str, ...] = ()
    """Notes for the user about files that are ignored."""

    @property
    def config(self) -> str:
        """The name of the configuration file of this layout."""
        return "params.json" if self.layout.startswith("consolidated") else "config.json"


@dataclass(frozen=True)
class _Candidate:
    """The weights found in one layout: their files, or why they cannot be used, or neither."""

    found: WeightFiles | None = None
    fault: LlmcliError | None = None
    begun: bool = False
    """Whether some of the files exist: then no other layout may silently replace this one."""


def weight_files(
    names: Iterable[str], shards: ReadIndex, *, where: str, advice: str = "; download the rest"
) -> WeightFiles | None:
    """The weight files among `names`, the files of a folder that errors call `where`; None if there are none.

    Order of precedence: safetensors before pickles; files for Transformers, which need a `config.json`, before the
    releases of Mistral and Meta, which need a `params.json`. As in transformers, `model.safetensors` or
    `pytorch_model.bin` precedes an index, even a stale or damaged one, unless the index lists it among several shards.
    An index is used if all its shards exist; it is stale beside a complete series of other files, or if none of its
    shards exist. Subfolders are ignored.

    Raises:
        CheckpointError: some of the files are missing, or the only index is damaged.
        UnsupportedModelError: there are several weight files and no index that says which belong together.
    """
    names = sorted(name for name in names if "/" not in name)
    configured = "config.json" in names
    candidates = (
        *([_safetensors(names, shards, where, advice)] if configured else []),
        _native(names, where, ".safetensors", advice),
        *([_pickles(names, shards, where, advice)] if configured else []),
        _native(names, where, ".pth", advice),
    )
    for candidate in candidates:
        if candidate.found is not None:
            return candidate.found
        if candidate.begun and candidate.fault is not None:
            raise candidate.fault
    fault = next((candidate.fault for candidate in candidates if candidate.fault is not None), None)
    if fault is not None and not any(name.lower().endswith(".gguf") for name in names):
        raise fault
    return None


def no_weights(names: Iterable[str], where: str) -> LlmcliError:
    """The error for a folder with a configuration but without weights that can be read."""
    pickles = sorted(name for name in names if name.endswith((".bin", ".pth", ".pt")))
    if pickles:
        return UnsupportedModelError(
            f"{where} holds only pickled weights ({shown(pickles[0])}), and only "
            f"{TORCH_SINGLE} or its numbered parts are loaded; use a safetensors or GGUF version of the model."
        )
    return CheckpointError(f"{where} holds no weights: there is no {SAFETENSORS_SINGLE} and no other safetensors file.")


def _safetensors(names: Sequence[str], shards: ReadIndex, where: str, advice: str) -> _Candidate:
    indexed, listed = _indexed("safetensors", SAFETENSORS_INDEX, names, shards, where, advice)
    if SAFETENSORS_SINGLE in names:
        return _whole("safetensors", SAFETENSORS_SINGLE, SAFETENSORS_INDEX, indexed, listed)
    damaged = indexed.fault is not None and not listed
    if indexed.found is not None or damaged:
        return indexed
    # Mistral also publishes the same weights under its own names; adapters are not models.
    others = [
        name
        for name in names
        if name.endswith(".safetensors") and not name.startswith(("consolidated", "adapter")) and name not in listed
    ]
    sets = complete_sets(others)
    if indexed.fault is not None:
        # Despite a stale index, a complete series of files is used; a single file of another name is not.
        sets = {label: files for label, files in sets.items() if len(files) > 1}
    if len(sets) == 1:
        return _Candidate(WeightFiles("safetensors", tuple(next(iter(sets.values())))))
    if indexed.fault is not None or not others:
        return indexed
    missing = missing_parts(others)
    if not sets and missing:
        return _Candidate(fault=_lacks(where, missing, len(missing) + len(others), advice), begun=True)
    fault = UnsupportedModelError(
        f"{where} holds {len(others)} safetensors files and no {SAFETENSORS_INDEX} that says which belong together. "
        "Put those of one model into a separate folder, and give that folder with -m."
    )
    return _Candidate(fault=fault, begun=True)


def _pickles(names: Sequence[str], shards: ReadIndex, where: str, advice: str) -> _Candidate:
    indexed, listed = _indexed("PyTorch", TORCH_INDEX, names, shards, where, advice)
    if TORCH_SINGLE in names:
        return _whole("PyTorch", TORCH_SINGLE, TORCH_INDEX, indexed, listed)
    series = [name for name in names if name.startswith("pytorch_model-") and name.endswith(".bin")]
    sets = complete_sets(series)
    if TORCH_INDEX in names or len(sets) > 1:
        return indexed
    if sets:
        return _Candidate(WeightFiles("PyTorch", tuple(next(iter(sets.values())))))
    missing = missing_parts(series)
    return (
        _Candidate(fault=_lacks(where, missing, len(missing) + len(series), advice), begun=True) if missing else indexed
    )


def _whole(layout: Layout, single: str, index: str, indexed: _Candidate, listed: Sequence[str]) -> _Candidate:
    """The single file, unless the index beside it lists it among several shards that all exist."""
    if indexed.found is not None and single in listed and len(listed) > 1:
        return indexed
    passed_over = (indexed.found or indexed.fault) is not None and list(listed) != [single]
    note = f"{index} is not used: {single} is beside it, which holds the whole model."
    return _Candidate(WeightFiles(layout, (single,), notes=(note,) if passed_over else ()))


def _indexed(
    layout: Layout, index: str, names: Sequence[str], shards: ReadIndex, where: str, advice: str
) -> tuple[_Candidate, list[str]]:
    """The shards that an index lists, if the index exists; and their names."""
    if index not in names:
        return _Candidate(), []
    try:
        files = list(shards(index))
    except LlmcliError as error:
        suffix = PurePosixPath(index.removesuffix(".index.json")).suffix
        return _Candidate(fault=error, begun=any(name.endswith(suffix) for name in names)), []
    missing = [name for name in files if name not in names]
    if missing:
        fault = _lacks(where, missing, len(files), advice)
        return _Candidate(fault=fault, begun=len(missing) < len(files)), files
    return _Candidate(WeightFiles(layout, tuple(files), index)), files


def _native(names: Sequence[str], where: str, suffix: str, advice: str) -> _Candidate:
    """A release in the layout of Mistral (safetensors) or of Meta (`.pth`)."""
    if suffix == ".safetensors":
        layout: Layout = "consolidated safetensors"
        files = ["consolidated.safetensors"] if "consolidated.safetensors" in names else []
        files = files or [n for n in names if n.startswith("consolidated-") and n.endswith(suffix) and _PART.search(n)]
        lacking = missing_parts(files)
    else:
        layout = "consolidated PyTorch"
        files = [name for name in names if _META_PART.fullmatch(name)]
        numbers = {int(name[13:15]) for name in files}
        lacking = [f"consolidated.{n:02d}.pth" for n in range(max(numbers, default=0)) if n not in numbers]
    if not files:
        return _Candidate()
    if lacking:
        fault = f"{where} lacks some of the weight files beside {files[-1]}, such as {shown(lacking[0])}{advice}."
        return _Candidate(fault=CheckpointError(fault), begun=True)
    if "params.json" not in names:
        fault = f"{where} holds {files[0]}, but not the params.json that belongs to it; download it as well."
        return _Candidate(fault=CheckpointError(fault))
    return _Candidate(WeightFiles(layout, tuple(files)))


def _lacks(where: str, missing: Sequence[str], count: int, advice: str) -> CheckpointError:
    return CheckpointError(
        f"{where} lacks {len(missing)} of {count} weight files, such as {shown(missing[0])}{advice}."
    )


def tokenizer_file(names: Iterable[str]) -> str | None:
    """The file that a model's tokenizer is read from, the most complete format first; None if there is none.

    `vocab.json` stands for itself with `merges.txt`.
    """
    present = set(names)
    if found := next((name for name in _TOKENIZERS if name in present), None):
        return found
    return VOCABULARY_FILES[0] if present.issuperset(VOCABULARY_FILES) else None


def small_files(names: Iterable[str]) -> list[str]:
    """The configuration, tokenizer and template files among `names`."""
    return sorted(name for name in names if name in _SMALL_FILES or _NAMED_TEMPLATE.fullmatch(name))


def gguf_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """The complete language models among GGUF files: label -> its file, or its shards in order."""
    return complete_sets(gguf_names(names))


def gguf_names(names: Iterable[str]) -> list[str]:
    """GGUF files whose names are not those of companions (image projectors, importance matrices)."""
    ggufs = (name for name in names if name.lower().endswith(".gguf"))
    return sorted(name for name in ggufs if not _COMPANION.search(PurePosixPath(name).name.lower()))


def complete_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """Single files, and series "-00001-of-00003" without gaps, by name without the numbers."""
    series = {key: parts for key, parts in _series(names).items() if set(parts) == set(range(1, key[1] + 1))}
    stems = [stem for stem, _ in series]
    return {
        # One model split into 2 and into 3 shards gives two sets.
        (stem if stems.count(stem) == 1 else f"{stem}-of-{count:05d}"): [parts[n] for n in sorted(parts)]
        for (stem, count), parts in sorted(series.items())
    }


def missing_parts(names: Iterable[str]) -> list[str]:
    """The names of files that are missing from the series among `names`."""
    found = []
    for (_, count), parts in sorted(_series(names).items()):
        # A name may claim a million shards: stop at 9,999.
        number = next((n for n in range(1, count + 1) if n not in parts), None)
        if number is not None:
            other = next(iter(parts.values()))
            numbers = [number, *(n for n in range(number + 1, min(count, 9999) + 1) if n not in parts)]
            found += [_PART.sub(f"-{n:05d}-of-{count:05d}", other) for n in numbers]
    return found


def first_part(name: str) -> str:
    """The name of the first shard of the series that `name` belongs to; `name` itself if it is a single file."""
    return _PART.sub(lambda match: f"-00001-of-{match[2]}", name)


def _series(names: Iterable[str]) -> dict[tuple[str, int], dict[int, str]]:
    """File names by (name without numbers and suffix, number of shards), then by shard; a single file is a series."""
    found: dict[tuple[str, int], dict[int, str]] = {}
    for name in sorted(names):
        part = _PART.search(name)
        stem = _PART.sub("", name).rpartition(".")[0]
        count, number = (1, 1) if part is None else (int(part[2]), int(part[1]))
        found.setdefault((stem, count), {})[number] = name
    return found


def quant_of(label: str) -> str:
    """The quantization in a GGUF file's name ("Q4_K_M"), or the whole stem if there is none."""
    stem = PurePosixPath(label).name
    match = _QUANT.search(stem)
    return match[1] if match else stem
