"""The server that a user names by its address, on this machine or another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmcli import __version__
from llmcli.client.connection import not_ours, request_json
from llmcli.errors import LlmcliError, UsageError
from llmcli.server.registry import Identity, ServerState, file_marks, model_files

_ANSWER_S = 10.0


def server_at(address: str) -> ServerState:
    """The server of `llm serve` at `http://host:port` or `unix:/path`.

    Raises:
        UsageError: the address has another form, or the server needs a key.
        LlmcliError: nothing answers there, or another program or version.
    """
    unknown = ServerState("?", 0, 0.0, "?", Identity(__version__, ()), "", "", 0, url=address)
    if address.startswith("unix:"):
        unknown = replace(unknown, socket=str(Path(address.removeprefix("unix:")).absolute()))
    else:
        unknown = replace(unknown, **_host_and_port(address))
    found = request_json(unknown, "/internal/server", timeout_s=_ANSWER_S)
    try:
        identity = Identity(**found.pop("identity"))
        if identity.version != __version__:
            raise LlmcliError(
                f"The server at {address} is version {identity.version} of this program, and this is {__version__}: "
                "both must be the same."
            )
        # Names and sizes: times of change are of another machine.
        files = tuple((str(mark[0]), int(mark[1]), 0) for mark in identity.files)
        return replace(unknown, **found, identity=replace(identity, files=files))
    except (TypeError, ValueError, AttributeError, LookupError):
        raise not_ours(address) from None


def has_files(server: ServerState, model: Path) -> bool:
    """Whether the model in `model`, on this machine, has files with the names and sizes of the server's."""
    try:
        marks = file_marks(model_files(model))
    except OSError:
        return False
    return {(Path(path).name, size) for path, size, _ in marks} == {
        (Path(path).name, size) for path, size, _ in server.identity.files
    }


def _host_and_port(address: str) -> dict[str, Any]:
    """The parts of an address over TCP; /v1 at its end is that of OpenAI's API, which users copy."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    else:
        if parts.scheme == "https":
            raise UsageError(
                "--server speaks no https. A tunnel such as ssh -L 8080:127.0.0.1:8080 HOST makes the server reachable "
                "at http://127.0.0.1:8080."
            )
        if parts.scheme != "http" or parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.username:
            host = None
    if not host:
        raise UsageError(f"--server must be auto, off, http://HOST:PORT or unix:/PATH, not {address!r}.")
    return {"host": host, "port": port or 80}
