"""Check the small files of a model before its weights are fetched: can this program load it?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.json_files import optional_json_object, read_json_object
from llmcli.checkpoint.files.model_files import VOCABULARY_FILES, tokenizer_file
from llmcli.checkpoint.huggingface.config import family_config
from llmcli.errors import CheckpointError
from llmcli.text.vocab.tokenizer_classes import tokenizer_class


def check_text_files(folder: Path, names: Collection[str], config: str) -> None:
    """Check the tokenizer's files among `names`, and the model type in `config.json`.

    `config` is the name of the configuration file, `config.json` or `params.json`.

    Raises:
        CheckpointError: there is no tokenizer, or a file is damaged.
        UnsupportedModelError: this program cannot run that kind of model or tokenizer.
    """
    values = read_json_object(folder / config)
    if config == "config.json":
        family_config(ConfigKeys(values, folder / config))
    tokenizer = tokenizer_file(names)
    if tokenizer is None:
        raise CheckpointError(f"{folder} has no tokenizer that can be read.")
    if tokenizer == VOCABULARY_FILES[0]:
        settings = optional_json_object(folder / "tokenizer_config.json")
        tokenizer_class(settings, values, source=str(folder / tokenizer))
