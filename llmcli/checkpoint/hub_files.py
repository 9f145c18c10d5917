"""Names of models on the hub, and which of a repository's files make up the model.

Nothing here touches the network or the disk: from names to names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmcli.errors import ModelNotFoundError, UnsupportedModelError

PREFERRED_QUANTS = ("Q4_K_M", "Q8_0", "Q4_0")
"""Which file of a GGUF repository is taken when the name does not say, best first."""

WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "spiece.model")
"""Files any one of which makes a tokenizer."""

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "params.json",
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
_MISTRAL_TOKENIZER = re.compile(r"tokenizer\.model\.v\d+m?\d*")
_NAMED_TEMPLATE = re.compile(r"additional_chat_templates/[\w.-]+\.jinja")
_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.\w+$)")
_QUANT = re.compile(r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32|FP16|FP32))$", re.IGNORECASE)
_PART_OF_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_HUB_NAME = re.compile(
    rf"(?P<repo>{_PART_OF_NAME}/{_PART_OF_NAME})(?::(?P<quant>[\w.+-]+))?(?:@(?P<revision>[\w.+/-]+))?", re.ASCII
)


@dataclass(frozen=True)
class HubName:
    """`owner/name`, `owner/name:QUANT` or `owner/name@revision`, taken apart."""

    repo: str
    quant: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        quant = "" if self.quant is None else f":{self.quant}"
        return self.repo + quant + ("" if self.revision is None else f"@{self.revision}")


def parse_hub_name(name: str) -> HubName | None:
    """The parts of a hub name, or None if `name` is not one."""
    match = _HUB_NAME.fullmatch(name)
    if match is None or ".." in match["repo"] or "--" in match["repo"]:
        return None
    revision = match["revision"]
    if revision is not None and any(part in ("", ".", "..") for part in revision.split("/")):
        return None
    return HubName(match["repo"], match["quant"], revision)


def is_safe(name: str) -> bool:
    """Whether a file name given by a server stays inside its folder and holds nothing odd."""
    parts = name.split("/")
    return name.isprintable() and not any(c in name for c in '\\:*?"<>|') and not {"", ".", ".."}.intersection(parts)


def small_files(names: Iterable[str]) -> list[str]:
    """The configuration, tokenizer and template files among `names`."""
    return sorted(
        name
        for name in names
        if name in _SMALL_FILES or _MISTRAL_TOKENIZER.fullmatch(name) or _NAMED_TEMPLATE.fullmatch(name)
    )


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether any of `names` is a tokenizer's main file."""
    return any(name in TOKENIZERS or _MISTRAL_TOKENIZER.fullmatch(name) for name in names)


def weight_files(names: Iterable[str]) -> list[str] | None:
    """The files that hold the weights of a repository in the layout of Transformers or Mistral.

    They are named by an index (then the index comes first in the list and its own content counts: `shards`), by
    convention, or by being the only one. None: there are none; safetensors are preferred to pickles.

    Raises:
        UnsupportedModelError: several weight files and nothing to tell which belong together.
    """
    at_root = sorted(name for name in names if "/" not in name)
    for index, single, suffix in (
        (WEIGHT_INDEXES[0], "model.safetensors", ".safetensors"),
        (WEIGHT_INDEXES[1], "pytorch_model.bin", ".bin"),
    ):
        if index in at_root:
            return [index]
        if single in at_root:
            return [single]
        if suffix == ".bin":
            return None
        candidates = [name for name in at_root if name.endswith(suffix) and not name.startswith("adapter")]
        consolidated = [name for name in candidates if name.startswith("consolidated")]
        # Mistral's own repositories carry the same weights twice; the consolidated ones are for its own program.
        candidates = [name for name in candidates if name not in consolidated] or consolidated
        sets = complete_sets(candidates)
        if len(sets) == 1:
            return next(iter(sets.values()))
        if candidates:
            raise UnsupportedModelError(
                f"The repository holds {len(candidates)} .safetensors files and no {index} that says which of them "
                "make the model. Download the right ones yourself and give the folder with -m."
            )
    return None


def gguf_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """The complete language models among the GGUF files: a label -> its file, or its parts in order."""
    ggufs = [
        name
        for name in names
        if name.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix", PurePosixPath(name).name.lower())
    ]
    return complete_sets(ggufs)


def complete_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """Files by themselves and series "-00001-of-00003" of which every part is there, by name without the numbers."""
    sets: dict[str, list[str]] = {}
    wanted: dict[str, int] = {}
    for name in sorted(names):
        part = _PART.search(name)
        stem = _PART.sub("", name).rpartition(".")[0]
        label = stem if part is None else f"{stem}-of-{part[2]}"
        sets.setdefault(label, []).append(name)
        wanted[label] = 1 if part is None else int(part[2])
    # Two labels never meet in one series: the number of parts belongs to the label only to keep mixed series apart.
    return {re.sub(r"-of-\d{5}$", "", k): v for k, v in sets.items() if len(v) == wanted[k]}


def quant_of(label: str) -> str:
    """The quantisation in a GGUF file's name ("Q4_K_M"), or the whole name if there is none."""
    stem = PurePosixPath(label).name
    match = _QUANT.search(stem)
    return match[1] if match else stem


def choose_gguf(sets: Mapping[str, list[str]], name: HubName) -> list[str]:
    """The file, or parts, that `name` means.

    A quant is matched against whole file names first, then as a whole word, then as any part of the name.

    Raises:
        ModelNotFoundError: nothing matches, or more than one does; the message lists the choices.
    """
    if name.quant is not None:
        matching = _matching(sets, name.quant)
        if len(matching) == 1:
            return sets[matching[0]]
        what = "has no GGUF file" if not matching else "has several GGUF files"
        raise ModelNotFoundError(
            f"{name.repo} {what} matching {name.quant!r}; choose one of {_choices(matching or sets, name)}."
        )
    if len(sets) == 1:
        return next(iter(sets.values()))
    for quant in PREFERRED_QUANTS:
        matching = _matching(sets, quant)
        if matching:
            return sets[min(matching, key=lambda label: (len(label), label))]
    raise ModelNotFoundError(f"{name.repo} has several GGUF files; choose one of {_choices(sets, name)}.")


def _matching(sets: Mapping[str, list[str]], quant: str) -> list[str]:
    wanted = quant.lower().removesuffix(".gguf")
    word = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])")
    rules: tuple[Callable[[str], bool], ...] = (
        lambda label: PurePosixPath(label).name == wanted,
        lambda label: quant_of(label).lower() == wanted,
        lambda label: bool(word.search(label)),
        lambda label: wanted in label,
    )
    for rule in rules:
        matching = [label for label in sets if rule(label.lower())]
        if matching:
            return matching
    return []


def _choices(labels: Iterable[str], name: HubName) -> str:
    quants = [(quant_of(label), PurePosixPath(label).name) for label in labels]
    short = [quant for quant, _ in quants]
    unique = [quant if short.count(quant) == 1 else stem for quant, stem in quants]
    shown = [f"{name.repo}:{choice}" for choice in sorted(unique)[:20]]
    return ", ".join(shown) + (", ..." if len(unique) > len(shown) else "")
