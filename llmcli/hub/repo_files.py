"""Parse names of models on the hub, and choose among the GGUF models of a repository.

Works on names alone, without network or disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmcli.checkpoint.files.model_files import quant_of
from llmcli.errors import ModelNotFoundError

PREFERRED_QUANTS = ("Q4_K_M", "Q8_0", "Q4_0")
"""Quantizations to choose from a GGUF repository if the name has none, best first."""

_PART_OF_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_HUB_NAME = re.compile(
    rf"(?P<repo>{_PART_OF_NAME}/{_PART_OF_NAME})(?::(?P<quant>[\w.+-]+))?(?:@(?P<revision>[\w.+/-]+))?", re.ASCII
)


@dataclass(frozen=True)
class HubName:
    """The parts of `owner/name`, `owner/name:QUANT` or `owner/name@revision`."""

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
    """Whether a file name from a server stays inside its folder and has no unusual characters."""
    parts = name.split("/")
    return name.isprintable() and not any(c in name for c in '\\:*?"<>|') and not {"", ".", ".."}.intersection(parts)


def choose_gguf(sets: Mapping[str, list[str]], name: HubName) -> list[str]:
    """The GGUF file (or shards) that `name` means.

    A quantization is compared with whole file names first, then as a whole word, then as any part of the name.

    Raises:
        ModelNotFoundError: no file matches, or several do; the message lists the choices.
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
