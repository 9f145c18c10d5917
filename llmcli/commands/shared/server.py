"""The running server that a command uses instead of loading the model: found by the model's files, or named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, UsageError

if TYPE_CHECKING:
    from llmcli.commands.shared.options.model import ModelOptions
    from llmcli.server.registry import ServerState


def server_for(options: ModelOptions, *, template: str | None = None) -> ServerState | None:
    """The server that holds the model of these options, with the chat template `template`; None for none.

    Raises:
        UsageError: --server has another form, or names a server that does not suit the other options.
        LlmcliError: there is no edit of a name that is given, or no server at the address of --server.
    """
    # A server's model is in one process, whose sums have other roundings.
    if options.server == "off" or options.ranks > 1:
        return None
    if options.server != "auto":
        return _named(options, template)
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


def servers_for(options: Sequence[ModelOptions]) -> list[ServerState | None]:
    """For each of several models, the server that holds it; None for none.

    Raises:
        UsageError: --server has another form, or names a server that holds none of them as they would be loaded.
        LlmcliError: there is no server at the address of --server.
    """
    address = options[0].server
    if address in ("auto", "off"):
        return [server_for(each) for each in options]
    from llmcli.client.address import server_at

    server = server_at(address)
    held = [_holds_as_loaded(server, each) for each in options]
    if len({_path(each) for each, is_held in zip(options, held, strict=True) if is_held}) > 1:
        raise UsageError(
            f"Both models have the name and the sizes of the one that the server at {address} holds. Leave --server "
            "out: on the server's own machine it is used for the right one."
        )
    if not any(held):
        started = [
            f"--{name.replace('_', '-')} {value}"
            for name in ("device", "dtype", "quantize", "kv_cache", "context")
            if (value := getattr(server.identity, name)) not in ("auto", None)
        ]
        how = f" with {' '.join(started)}" if started else ""
        raise UsageError(f"The server at {address} holds {server.model}{how}, which is none of the given models.")
    return [server if is_held else None for is_held in held]


def _holds_as_loaded(server: ServerState, options: ModelOptions) -> bool:
    """Whether a named server computes what a model that these options load would compute."""
    from llmcli.checkpoint.files.model_files import model_name

    held, model, path = server.identity, options.model or "", _path(options)
    # The dtype "auto" does not stand for another, as in commands with one model: the two may differ in it alone.
    return (
        options.device in ("auto", held.device)
        and (options.dtype, options.quantize, options.kv_cache) == (held.dtype, held.quantize, held.kv_cache)
        and not (held.edits or held.template or held.context or held.ranks > 1)
        and (model if path is None else model_name(path)) == server.model
        and (path is None or has_same_files(server, model))
    )


def _path(options: ModelOptions) -> Path | None:
    """The folder or file of a model; None if it is not on this machine."""
    from llmcli.client.find import model_path

    try:
        return model_path(options.model).resolve()
    except LlmcliError:
        return None


def check_no_server_named(options: ModelOptions, flag: str) -> None:
    """Check that --server names no server, because `flag` needs the model in this process.

    Raises:
        UsageError: it names one.
    """
    if options.server not in ("auto", "off"):
        raise UsageError(f"{flag} loads the model in this process, so --server cannot name a server.")


def _named(options: ModelOptions, template: str | None) -> ServerState:
    """The server at the address of --server, after checking that it computes what the other options ask for."""
    from llmcli.client.address import server_at

    server = server_at(options.server)
    where, identity = f"The server at {options.server}", server.identity
    if options.model is not None and not _holds(server, options.model):
        raise UsageError(f"{where} holds {server.model}, not {options.model}. Leave -m out, or name its model.")
    for name in ("device", "dtype", "quantize", "kv_cache"):
        given, held = getattr(options, name), getattr(identity, name)
        if given not in ("auto", None, held):
            shown = f"--{name.replace('_', '-')} {held}" if held else "no " + f"--{name}"
            raise UsageError(f"{where} was started with {shown}; a command cannot change it.")
    if options.edit:
        raise UsageError(f"{where} has its edits from its start; leave --edit out.")
    if template is not None:
        from llmcli.server.registry import template_mark

        if template_mark(template) != identity.template:
            raise UsageError(f"{where} was started with another chat template; leave --chat-template out.")
    if options.context is not None and server.context_length is not None and options.context > server.context_length:
        raise UsageError(f"{where} has a context of {server.context_length} tokens, not {options.context}.")
    return server


def _holds(server: ServerState, model: str) -> bool:
    """Whether a server's model has this name, or the files of the model of this name on this machine."""
    if server.model in (model, Path(model).name, Path(model).stem) or Path(server.model).name == model:
        return True
    return has_same_files(server, model)


def has_same_files(server: ServerState, model: str | None) -> bool:
    """Whether the model of this name is on this machine, with files like those of a server."""
    from llmcli.client.address import has_files
    from llmcli.client.find import model_path

    try:
        return has_files(server, model_path(model))
    except LlmcliError:
        return False
