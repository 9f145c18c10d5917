"""Run a server: sockets, the thread of the connections, the model, and the end.

The thread that calls `serve` computes, so that signals interrupt a long pass as in every command; connections have
another.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.errors import LlmcliError, UsageError
from llmcli.kernels.select import fast_step
from llmcli.loaded_model import LoadedModel
from llmcli.server.app import private_app, public_app
from llmcli.server.http.listening import is_loopback, passed_sockets, private_socket, tcp_socket
from llmcli.server.http.protocol import connection_class
from llmcli.server.http.security import LARGEST_HEADERS, Access
from llmcli.server.registry import Identity, Registration, ServerState
from llmcli.server.request_log import RequestLog
from llmcli.server.scheduler.scheduler import Scheduler, WorkLimits
from llmcli.server.service import Ready, Service

# Seconds for a client to send a request, to read some 50 kB of an answer, between two requests of a connection, and to
# take the rest of a reply when the server ends.
_REQUEST_S, _SEND_S, _KEEP_ALIVE_S, _GRACE_S = 30.0, 120.0, 75, 5
# Seconds after which a thread lets another run Python code.
_SWITCH_S = 0.0005


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, whom it answers, and how long it stays."""

    host: str = "127.0.0.1"
    port: int | None = None
    """The TCP port; 0 is any free one, None listens on the private socket alone."""
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    strict_model: bool = False
    metrics: bool = False
    log: Path | None = None
    """The file that gets a line for each request."""
    log_bodies: bool = False
    keep_s: float | None = None
    """Seconds without work after which the server ends; None: never."""
    limits: WorkLimits = field(default_factory=WorkLimits)
    request_s: float = _REQUEST_S
    send_s: float = _SEND_S


class RunningServer:
    """The sockets and the thread of the connections; answers that the model is being loaded until it is `ready`."""

    def __init__(
        self,
        name: str,
        settings: ServeSettings,
        environment: Mapping[str, str],
        *,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`name` is the model's, `tell` is called with a sentence about a failure of the program itself.

        Raises:
            UsageError: others could connect, and no API key is set; or there is no such address.
            LlmcliError: the port is in use.
        """
        self._settings, self._end = settings, threading.Event()
        self.scheduler: Scheduler | None = None
        with ExitStack() as stack:
            sockets = passed_sockets(environment)
            if settings.port is not None:
                sockets.append(tcp_socket(settings.host, settings.port))
            for each in sockets:
                stack.callback(each.close)
            local = all(map(is_loopback, sockets))
            if settings.api_key is None and not local:
                raise UsageError(
                    "Other machines could use this server, so it needs a key: give --api-key, or set LLMCLI_API_KEY."
                )
            inet = [each.getsockname()[:2] for each in sockets if isinstance(each.getsockname(), tuple)]
            self.address: tuple[str, int] | None = inet[0] if inet else None
            """Host and port; None without TCP."""
            self.registration = Registration(name)
            stack.callback(self.registration.close)
            private = private_socket(self.registration.socket)
            stack.callback(private.close)
            self.service = Service(
                strict_model=settings.strict_model, metrics=settings.metrics, tell=tell, stop=self.stop
            )
            log = None
            if settings.log is not None:
                log = RequestLog(settings.log, name, bodies=settings.log_bodies, tell=tell)
                stack.callback(log.close)
            access = Access.of(settings.api_key, settings.origins, local=local)
            connection = connection_class(
                public_app(self.service, access, log),
                private_app(self.service, log),
                request_s=settings.request_s,
                send_s=settings.send_s,
            )
            self._server = uvicorn.Server(_config(connection))
            self._thread = threading.Thread(
                target=self._server.run, args=([private, *sockets],), name="connections", daemon=True
            )
            self._thread.start()
            self._release = stack.pop_all()
        try:
            self._wait_for_start()
        except BaseException:
            self.close()
            raise

    def ready(
        self, loaded: LoadedModel, checkpoint: Checkpoint, identity: Identity, threads: int | None = None
    ) -> ServerState:
        """Answer with the model `loaded` of `checkpoint` from now on."""
        step = fast_step(loaded.model, loaded.why_readable, threads=threads, tell=loaded.tell)
        scheduler = Scheduler(loaded, step, self._settings.limits)
        host, port = self.address or (None, None)
        state = ServerState(
            name=self.registration.name,
            pid=os.getpid(),
            started=time.time(),
            model=loaded.name,
            identity=identity,
            socket=str(self.registration.socket),
            path=step.name,
            vocab_size=loaded.tokenizer.vocab_size,
            host=host,
            port=port,
            context_length=scheduler.context_length,
        )
        self.scheduler = scheduler
        self.service.ready = Ready(loaded, checkpoint, scheduler, state)
        self.registration.publish(state)
        if self._end.is_set():
            scheduler.close()
        return state

    def compute(self) -> None:
        """Compute in this thread, until the server is stopped or has been idle for long enough."""
        assert self.scheduler is not None, "`ready` comes first"
        keep = self._settings.keep_s
        self.scheduler.run(lambda seconds: keep is not None and seconds > keep)

    def stop(self) -> None:
        """Take no more requests, and end once what runs is done. Any thread, or a signal handler, may call this."""
        self._end.set()
        self.registration.withdraw()
        if self.scheduler is not None:
            self.scheduler.close()

    def close(self) -> None:
        """Close all connections, after the rest of their replies has been sent, and remove the files."""
        self._server.should_exit = True
        self._thread.join(_GRACE_S + 2)
        self.service.close()
        self._release.close()

    def _wait_for_start(self) -> None:
        while not self._server.started:
            if not self._thread.is_alive():
                raise LlmcliError("The server could not start.")
            time.sleep(0.005)


def serve(
    server: RunningServer,
    checkpoint: Checkpoint,
    load: Callable[[], tuple[LoadedModel, Identity]],
    ready: Callable[[ServerState], None] = lambda state: None,
    threads: int | None = None,
) -> None:
    """Load a model and answer requests with it until the server ends; `ready` is called when it answers.

    The first Ctrl-C or SIGTERM lets it finish what runs, the second ends it at once.

    Raises:
        KeyboardInterrupt: a second signal came.
    """
    # After each call of a kernel, the thread that computes waits that long for those that prepare and send.
    sys.setswitchinterval(_SWITCH_S)
    try:
        loaded, identity = load()
        with _stopped_by_signals(server):
            ready(server.ready(loaded, checkpoint, identity, threads))
            server.compute()
    finally:
        server.close()


def _config(connection: type[object]) -> uvicorn.Config:
    # Its messages are about single connections; ours are written by the command.
    logger = logging.getLogger("uvicorn")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return uvicorn.Config(
        _unused,
        http=connection,  # type: ignore[arg-type]
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=LARGEST_HEADERS,
    )


async def _unused(scope: object, receive: object, send: object) -> None:
    """Stands for an application: each connection has its own."""


@contextmanager
def _stopped_by_signals(server: RunningServer) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        server.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):
                signal.signal(number, handler)
