"""Look at running servers, and stop one."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from llmcli.client.connection import NoServerError, request_json
from llmcli.errors import LlmcliError, UsageError
from llmcli.server.registry import ServerState, running_servers

_STATUS_S, _STOP_S = 2.0, 10.0


@dataclass(frozen=True)
class ServerStatus:
    """A running server and what it does; None where it does not answer."""

    state: ServerState
    memory_bytes: int | None = None
    """The most memory that its process has had so far, or that it has on a GPU."""
    idle_s: float | None = None
    """Seconds since it last computed something; 0 while it does."""
    busy: int | None = None
    """Requests that are being computed."""
    requests: int | None = None
    """Requests so far."""


def server_statuses() -> list[ServerStatus]:
    """Every running server of this user, the latest first."""
    return [_status(state) for state in running_servers()]


def find_running(name: str | None) -> ServerState | None:
    """The running server with this name or model; without a name the only one, or None if there is none.

    Raises:
        UsageError: there is no such server, or several.
    """
    running = running_servers()
    names = ", ".join(state.name for state in running)
    if name is None:
        if len(running) > 1:
            raise UsageError(f"{len(running)} servers are running; name one of {names}.")
        return running[0] if running else None
    found = [state for state in running if state.name == name] or [state for state in running if state.model == name]
    if not found:
        raise UsageError(f"There is no running server {name!r}{f'; there is {names}' if names else ''}.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} servers hold {name}; name one of {', '.join(state.name for state in found)}.")
    return found[0]


def stop_server(state: ServerState) -> None:
    """Let a server finish what runs and end; returns when its process is gone, and its memory with it.

    Raises:
        LlmcliError: it does not answer.
    """
    try:
        # Opened first: the server removes it at its end, and holds it until then.
        lock = os.open(Path(state.socket).with_suffix(".lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        try:
            request_json(state, "/internal/stop", {}, timeout_s=_STOP_S)
        except NoServerError:
            if state in running_servers():
                raise LlmcliError(
                    f"The server {state.name} does not answer. Its process is {state.pid}; kill {state.pid} ends it."
                ) from None
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _status(state: ServerState) -> ServerStatus:
    try:
        found = request_json(state, "/internal/status", timeout_s=_STATUS_S)
        return ServerStatus(state, *(found[name] for name in ("memory_bytes", "idle_s", "busy", "requests")))
    except (LlmcliError, KeyError, TypeError):
        return ServerStatus(state)
