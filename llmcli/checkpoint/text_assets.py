"""Tokenizer, chat templates, stop tokens and sampling defaults of a model, read from the files of each format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmcli.checkpoint.chat_template_file import is_template_file, read_template_file
from llmcli.checkpoint.files.json_files import optional_json_object, read_bytes, read_json_object, read_text
from llmcli.checkpoint.files.model_files import VOCABULARY_FILES, tokenizer_file
from llmcli.checkpoint.files.model_folder import file_names
from llmcli.checkpoint.files.safe_paths import inside
from llmcli.checkpoint.gguf.metadata import GGUFMetadata
from llmcli.checkpoint.sampling_defaults import folder_sampling_defaults, gguf_sampling_defaults, gguf_sampling_notes
from llmcli.errors import CheckpointError
from llmcli.text.chat_template.template import ChatTemplate, choose_template
from llmcli.text.stop_tokens import is_no_id, stop_ids
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.bpe.tiktoken import VOCABULARIES
from llmcli.text.vocab.gguf import gguf_templates
from llmcli.text.vocab.load import (
    tokenizer_from_gguf,
    tokenizer_from_json,
    tokenizer_from_model_file,
    tokenizer_from_tekken,
    tokenizer_from_vocabulary,
)
from llmcli.text.vocab.tokenizer_classes import tokenizer_class

_ADDITIONAL_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class TextParts:
    """Everything that turns text into tokens and back and ends a reply."""

    tokenizer: Tokenizer
    templates: Mapping[str, str]
    """Sources of the chat templates, by name."""
    template_origin: str | None
    """The file or key that the templates came from."""
    stop_ids: Mapping[int, tuple[str, ...]]
    """Token ids that end a reply, each with the files or keys that declare it."""
    generation_defaults: Mapping[str, float]
    """Sampling settings that the model's files recommend, under the names of `SamplingParams`."""
    notes: tuple[str, ...] = ()
    """Warnings for the user that stop nothing."""
    template_fault: CheckpointError | None = None
    """Why the template file cannot be read; raised only when a template is used."""

    def template(self, name: str | None = None) -> ChatTemplate | None:
        """The chat template called `name`, or read from the file `name`; None if the model has none.

        Without a name, the template for ordinary conversations. A fault of the model's template is raised on use.

        Raises:
            UsageError: there is no template and no file of that name.
        """
        tokens = self.tokenizer.special_tokens
        if name is not None and name not in self.templates and is_template_file(name):
            source = read_template_file(name)
            # Its control tokens must be guarded against injection like those of the model's templates.
            self.tokenizer.guard_template(source)
            return ChatTemplate(source, name=name, special_tokens=tokens)
        if name is None and not self.templates:
            fault = self.template_fault
            return None if fault is None else ChatTemplate("", special_tokens=tokens, fault=fault)
        try:
            chosen = choose_template(self.templates, name)
        except CheckpointError as error:
            return ChatTemplate("", special_tokens=tokens, fault=error)
        return ChatTemplate(self.templates[chosen], name=chosen, special_tokens=tokens)


def folder_text_parts(folder: Path, config: Mapping[str, object], rows: int | None = None) -> TextParts:
    """Read the text parts of a Hugging Face folder; `config` is its `config.json`.

    The model has embeddings for `rows` tokens; None: unknown.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    tokenizer_config = optional_json_object(folder / "tokenizer_config.json")
    templates, origin, fault = _folder_templates(folder, tokenizer_config)
    tokenizer, notes = _folder_tokenizer(folder, tokenizer_config, config, tuple(templates.values()), rows)
    generation = optional_json_object(folder / "generation_config.json")
    declared = {
        "generation_config.json": generation.get("eos_token_id"),
        "config.json": config.get("eos_token_id"),
    }
    stops, stop_notes = stop_ids(tokenizer, declared)
    return TextParts(
        tokenizer=tokenizer,
        templates=templates,
        template_origin=origin,
        template_fault=fault,
        stop_ids=stops,
        generation_defaults=folder_sampling_defaults(generation),
        notes=(*notes, *tokenizer.notes, *stop_notes, *_fault_notes(fault, origin)),
    )


def gguf_text_parts(header: GGUFMetadata, rows: int | None = None) -> TextParts:
    """Read the text parts from the metadata of a GGUF file; the model has embeddings for `rows` tokens."""
    tokenizer = tokenizer_from_gguf(header.metadata, source=str(header.path), rows=rows)
    templates = {name: source for name, source in gguf_templates(header.metadata).items() if source.strip()}
    keys = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom")]
    named = {
        key: header.metadata.get(key)
        for key in keys
        # Leave out keys that a note of the tokenizer already reports.
        if not is_no_id(header.metadata.get(key)) and not any(key in note for note in tokenizer.notes)
    }
    stops, stop_notes = stop_ids(tokenizer, named)
    return TextParts(
        tokenizer=tokenizer,
        templates=templates,
        template_origin="tokenizer.chat_template" if templates else None,
        stop_ids=stops,
        generation_defaults=gguf_sampling_defaults(header.metadata),
        notes=(*tokenizer.notes, *stop_notes, *gguf_sampling_notes(header.metadata)),
    )


def _folder_tokenizer(
    folder: Path,
    tokenizer_config: Mapping[str, object],
    config: Mapping[str, object],
    templates: Collection[str],
    rows: int | None,
) -> tuple[Tokenizer, list[str]]:
    """The tokenizer from the first file that holds one, in the order of `tokenizer_file`; and notes."""
    name = tokenizer_file(file_names(folder))
    if name is None:
        raise CheckpointError(
            f"{folder} has no tokenizer.json, tekken.json, tokenizer.model, tiktoken.model or hy.tiktoken, nor "
            "vocab.json with merges.txt, so text cannot be turned into tokens."
        )
    path = folder / name
    # A tokenizer.json already contains what these two files say.
    read = _usable_json_object if name == "tokenizer.json" else _json_object_beside
    special_tokens_map, first_notes = read(folder / "special_tokens_map.json")
    added_tokens, more_notes = read(folder / "added_tokens.json")
    if name in VOCABULARIES:
        make: Callable[..., Tokenizer] = partial(
            tokenizer_from_model_file, read_bytes(path), vocabulary=VOCABULARIES[name]
        )
    elif name == VOCABULARY_FILES[0]:
        rules = tokenizer_class(tokenizer_config, config, source=str(path))
        merges = read_text(folder / VOCABULARY_FILES[1])
        make = partial(tokenizer_from_vocabulary, read_json_object(path), merges, rules=rules)
    else:
        make = partial(tokenizer_from_json if name == "tokenizer.json" else tokenizer_from_tekken, read_text(path))
    tokenizer = make(
        source=str(path),
        tokenizer_config=tokenizer_config,
        special_tokens_map=special_tokens_map,
        added_tokens=added_tokens,
        templates=templates,
        rows=rows,
    )
    return tokenizer, [*first_notes, *more_notes]


def _json_object_beside(path: Path) -> tuple[dict[str, object], list[str]]:
    """The object in an optional JSON file, and no notes."""
    return optional_json_object(path), []


def _usable_json_object(path: Path) -> tuple[dict[str, object], list[str]]:
    """Like `_json_object_beside`, but a damaged file is ignored with a note."""
    try:
        return optional_json_object(path), []
    except CheckpointError as error:
        return {}, [f"Not used: {error}"]


def _folder_templates(
    folder: Path, tokenizer_config: Mapping[str, object]
) -> tuple[dict[str, str], str | None, CheckpointError | None]:
    """The templates by name, the place they come from, and the error of a file that cannot be read.

    All named templates, and those of the first other place that has any; empty templates are ignored.
    """
    found: dict[str, str] = {}
    origins: list[str] = []
    fault: CheckpointError | None = None
    places: tuple[tuple[str, Callable[[], dict[str, str]]], ...] = (
        ("chat_template.jinja", lambda: _jinja_template(folder)),
        ("tokenizer_config.json", lambda: _listed_templates(tokenizer_config)),
        ("chat_template.json", lambda: _listed_templates(optional_json_object(folder / "chat_template.json"))),
        (_ADDITIONAL_TEMPLATES, lambda: _additional_templates(folder)),
    )
    for origin, read in places:
        # The last place holds further templates beside the main ones.
        if found and origin != _ADDITIONAL_TEMPLATES:
            continue
        try:
            templates = {name: source for name, source in read().items() if source.strip()}
        except CheckpointError as error:
            fault = fault or error
            continue
        if templates:
            origins.append(origin)
            found = templates | found
    return found, origins[0] if origins else None, fault


def _fault_notes(fault: CheckpointError | None, origin: str | None) -> list[str]:
    """A note that a template file is damaged and the templates of `origin` are used instead."""
    return [] if fault is None or origin is None else [f"The chat template comes from {origin}: {fault}"]


def _jinja_template(folder: Path) -> dict[str, str]:
    path = folder / "chat_template.jinja"
    return {"default": read_text(path)} if path.exists() else {}


def _additional_templates(folder: Path) -> dict[str, str]:
    if not (folder / _ADDITIONAL_TEMPLATES).is_dir():
        return {}
    found = sorted(inside(folder, _ADDITIONAL_TEMPLATES).glob("*.jinja"))
    return {path.stem: read_text(path) for path in found}


def _listed_templates(values: Mapping[str, object]) -> dict[str, str]:
    """The templates in a JSON file: a string, or a list of objects with `name` and `template`."""
    templates = values.get("chat_template")
    if isinstance(templates, str):
        return {"default": templates}
    entries = [entry for entry in templates if isinstance(entry, dict)] if isinstance(templates, list) else []
    return {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }
