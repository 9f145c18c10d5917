"""What a model needs besides weights: tokenizer, chat template, stop tokens, sampling defaults, from wherever each
kind of checkpoint keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmcli.checkpoint.gguf import GGUFHeader
from llmcli.checkpoint.json_files import optional_json_object, read_text
from llmcli.errors import CheckpointError
from llmcli.text.end_of_turn import stop_ids
from llmcli.text.template import ChatTemplate, choose_template
from llmcli.text.tokenizer import Tokenizer

# Our name of each sampling setting, and what transformers and llama.cpp call it.
_SAMPLING_KEYS = {
    "temperature": ("temperature", "temp"),
    "top_k": ("top_k", "top_k"),
    "top_p": ("top_p", "top_p"),
    "min_p": ("min_p", "min_p"),
    "repeat_penalty": ("repetition_penalty", "penalty_repeat"),
}


@dataclass(frozen=True)
class TextParts:
    """Everything that turns text into tokens and back, and says when a reply is over."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    template_origin: str | None
    """Which file (and key) the template came from."""
    stop_ids: Mapping[int, tuple[str, ...]]
    """Ids that end a reply, each with the places that say so."""
    generation_defaults: Mapping[str, float]
    """Sampling settings the model's makers recommend, under the names of `SamplingParams`."""


def folder_text_parts(folder: Path, config: Mapping[str, object]) -> TextParts:
    """Read them from a Hugging Face folder whose `config.json` holds `config`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"{folder} has no tokenizer.json, so text cannot be turned into tokens.")
    tokenizer_config = optional_json_object(folder / "tokenizer_config.json")
    tokenizer = Tokenizer.from_json(
        read_text(path),
        source=str(path),
        tokenizer_config=tokenizer_config,
        special_tokens_map=optional_json_object(folder / "special_tokens_map.json"),
        added_tokens=optional_json_object(folder / "added_tokens.json"),
    )
    generation = optional_json_object(folder / "generation_config.json")
    templates, origin = _folder_templates(folder, tokenizer_config)
    declared = {
        "generation_config.json": _ids(generation, folder / "generation_config.json"),
        "config.json": _ids(config, folder / "config.json"),
    }
    return TextParts(
        tokenizer=tokenizer,
        template=_template(templates, tokenizer),
        template_origin=origin,
        stop_ids=stop_ids(tokenizer, declared),
        generation_defaults=_defaults({ours: generation.get(theirs) for ours, (theirs, _) in _SAMPLING_KEYS.items()}),
    )


def gguf_text_parts(header: GGUFHeader) -> TextParts:
    """Read them from the metadata of a GGUF file."""
    tokenizer = Tokenizer.from_gguf(header.metadata, source=str(header.path))
    templates = {}
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.chat_template") and isinstance(value, str):
            templates[key.removeprefix("tokenizer.chat_template").lstrip(".") or "default"] = value
    declared = {}
    for kind in ("eos", "eot", "eom"):
        key = f"tokenizer.ggml.{kind}_token_id"
        if key in header.metadata:
            declared[key] = [header.get_int(key)]
    sampling = {ours: header.metadata.get(f"general.sampling.{theirs}") for ours, (_, theirs) in _SAMPLING_KEYS.items()}
    return TextParts(
        tokenizer=tokenizer,
        template=_template(templates, tokenizer),
        template_origin="tokenizer.chat_template" if templates else None,
        stop_ids=stop_ids(tokenizer, declared),
        generation_defaults=_defaults(sampling),
    )


def _folder_templates(folder: Path, tokenizer_config: Mapping[str, object]) -> tuple[dict[str, str], str | None]:
    """The named templates of the first place that has any, and that place."""
    named = {}
    if (folder / "chat_template.jinja").exists():
        named["default"] = read_text(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        named[path.stem] = read_text(path)
    if named:
        return named, "chat_template.jinja"
    for name, values in (
        ("tokenizer_config.json", tokenizer_config),
        ("chat_template.json", optional_json_object(folder / "chat_template.json")),
    ):
        templates = values.get("chat_template")
        if isinstance(templates, str):
            return {"default": templates}, name
        if isinstance(templates, list):
            entries = [entry for entry in templates if isinstance(entry, dict)]
            named = {
                entry["name"]: entry["template"]
                for entry in entries
                if isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
            }
            if named:
                return named, name
    return {}, None


def _template(named: Mapping[str, str], tokenizer: Tokenizer) -> ChatTemplate | None:
    if not named:
        return None
    name = choose_template(named)
    return ChatTemplate(named[name], name=name, special_tokens=tokenizer.special_tokens)


def _ids(values: Mapping[str, object], path: Path) -> list[int]:
    """End-of-sequence ids of a configuration: one number, a list of them, or nothing."""
    found = values.get("eos_token_id")
    listed = found if isinstance(found, list) else [] if found is None else [found]
    ids = [token for token in listed if isinstance(token, int) and not isinstance(token, bool)]
    if len(ids) != len(listed):
        raise CheckpointError(f"{path} has 'eos_token_id' = {found!r}; a token id or a list of them is needed.")
    return ids


def _defaults(values: Mapping[str, object]) -> dict[str, float]:
    """The recommended settings that are usable numbers; others are none of the user's concern."""
    numbers = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    # GGUF metadata and some JSON files write whole numbers as floats.
    return {name: int(value) if name == "top_k" else float(value) for name, value in numbers.items()}
