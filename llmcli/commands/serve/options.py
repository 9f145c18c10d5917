"""Options of `llm serve`: where it listens, how much it takes, and what it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from llmcli.commands.shared.options.flags import OUTPUT, flag

LISTENING, LIMITS = "Listening", "Limits"


@dataclass(frozen=True)
class ListeningOptions:
    """Where the server listens, and whom it answers."""

    port: Annotated[
        int | None,
        flag("--port", metavar="N", min=0, max=65535, panel=LISTENING, help="Also listen on this TCP port; 0: any."),
    ] = None
    host: Annotated[
        str,
        flag("--host", metavar="NAME", panel=LISTENING, help="Listen on another address; needs --api-key."),
    ] = "127.0.0.1"
    api_key: Annotated[
        str | None,
        flag("--api-key", metavar="KEY", panel=LISTENING, help="Answer only requests with this key."),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        flag("--cors-origin", metavar="URL", panel=LISTENING, help="Answer web pages of this origin; repeatable."),
    ] = None
    strict_model: Annotated[
        bool,
        flag("--strict-model", panel=LISTENING, help="Refuse requests that name another model."),
    ] = False


@dataclass(frozen=True)
class LimitOptions:
    """How much the server takes, and how long it stays."""

    keep: Annotated[
        str,
        flag(
            "--keep",
            metavar="TIME",
            panel=LIMITS,
            show_default=False,
            help="End after TIME without requests, as 90s, 15m (default), 2h or forever.",
        ),
    ] = "15m"
    parallel: Annotated[
        int | None,
        flag("--parallel", metavar="N", min=1, max=32, panel=LIMITS, help="Write up to N replies at the same time."),
    ] = None
    queue: Annotated[
        int,
        flag(
            "--queue",
            metavar="N",
            min=1,
            panel=LIMITS,
            show_default=False,
            help="Let up to N requests wait. Default: 64.",
        ),
    ] = 64
    cache_mib: Annotated[
        int,
        flag(
            "--cache-mib",
            metavar="N",
            min=0,
            panel=LIMITS,
            show_default=False,
            help="Keep up to N MiB of keys and values of earlier texts. Default: 1024.",
        ),
    ] = 1024


@dataclass(frozen=True)
class LogOptions:
    """What the server writes about requests."""

    log_file: Annotated[
        Path | None,
        flag("--log", env=False, metavar="FILE", panel=OUTPUT, help="Append a line of JSON for each request."),
    ] = None
    log_bodies: Annotated[
        bool, flag("--log-bodies", panel=OUTPUT, help="With --log: also write the texts of requests and replies.")
    ] = False
    metrics: Annotated[bool, flag("--metrics", panel=OUTPUT, help="Answer GET /metrics, for Prometheus.")] = False
