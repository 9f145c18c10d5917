"""Find the running server that a command can use instead of loading the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.commands.shared.options.model import ModelOptions
    from llmcli.server.registry import ServerState


def server_for(options: ModelOptions, *, template: str | None = None) -> ServerState | None:
    """The server that holds the model of these options, with the chat template `template`; None for none.

    Raises:
        UsageError: --server has another value than auto or off.
        LlmcliError: there is no edit of a name that is given.
    """
    if options.server not in ("auto", "off"):
        raise UsageError(f"--server must be auto or off, not {options.server!r}.")
    if options.server == "off":
        return None
    from llmcli.client.find import WantedModel, find_server

    return find_server(
        WantedModel(
            options.model,
            options.device,
            options.dtype,
            options.quantize,
            options.edit or (),
            template,
            options.context,
            options.kv_cache,
        )
    )
