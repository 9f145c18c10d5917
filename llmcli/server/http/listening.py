"""The sockets that a server listens on: the private one, TCP, and those that systemd hands over."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llmcli.errors import LlmcliError, UsageError

FIRST_PASSED = 3
"""The first descriptor that systemd hands over (sd_listen_fds)."""
_BACKLOG = 128


def private_socket(path: Path) -> socket.socket:
    """A unix socket at `path` that only this user can open."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode is set before anything can connect: the socket does not listen yet.
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def tcp_socket(host: str, port: int) -> socket.socket:
    """A TCP socket on `host`, a name or an address, and `port`; 0 is any free port.

    Raises:
        UsageError: there is no such address.
        LlmcliError: the port is in use, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"There is no address {host!r} to listen on: {error}.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise LlmcliError(f"The server cannot listen on {host} port {port}: {error.strerror or error}.") from None
    return listening


def passed_sockets(environment: Mapping[str, str], first: int = FIRST_PASSED) -> list[socket.socket]:
    """The listening sockets that systemd hands to this process (socket activation), from descriptor `first` on.

    Raises:
        LlmcliError: one of them is not a listening stream socket.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = []
    with suppress(ValueError):
        for descriptor in range(first, first + int(environment.get("LISTEN_FDS", "0"))):
            os.set_inheritable(descriptor, False)
            found.append(socket.socket(fileno=descriptor))
    for each in found:
        stream = each.type == socket.SOCK_STREAM
        if not stream or not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            for one in found:
                one.close()
            raise LlmcliError("A socket that systemd handed over is not one to listen on; use ListenStream=.")
    return found


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can connect to a socket."""
    if listening.family == socket.AF_UNIX:
        return True
    address = str(listening.getsockname()[0])
    return address == "::1" or address.startswith("127.")
