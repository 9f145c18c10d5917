"""Settings of `tokenizer_config.json`."""

from __future__ import annotations

from collections.abc import Mapping

from llmcli.errors import CheckpointError


def flag(values: Mapping[str, object], name: str, default: bool, source: str) -> bool:
    """A boolean setting of the tokenizer_config.json next to `source`; absent and null mean the default."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"The tokenizer_config.json next to {source} has {name} = {value!r}, not true or false.")
    return default if value is None else value
