"""Many clients of one server for a while, some of which leave in the middle of a reply or read slowly.

    python -m tests.clients.stress SECONDS [CLIENTS]

Every whole reply is compared with the one that a server gives alone. At the end it prints how many replies were read
and abandoned, and the growth of memory. Exit code 1 if a reply differs or an answer is an error.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llmcli
from llmcli.server.run import ServeSettings
from llmcli.server.scheduler.scheduler import WorkLimits
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import TestServer, serving

_KINDS = 40


def main() -> int:
    """Run the clients."""
    seconds, clients = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32
    model = llmcli.load(shared_checkpoint("llama", max_position_embeddings=4096), quantize="int8")
    with serving(model, ServeSettings(limits=WorkLimits(cache_bytes=0))) as alone:
        wanted = [_text(alone.post("/v1/chat/completions", **_asked(kind)).json) for kind in range(_KINDS)]
    limits = WorkLimits(waiting=clients, cache_bytes=64 << 20)
    with serving(model, ServeSettings(limits=limits)) as server:
        for kind in range(_KINDS):
            server.post("/v1/chat/completions", **_asked(kind))
        before, end = _memory(), time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            found = [pool.submit(_client, server, number, end, wanted) for number in range(clients)]
            time.sleep(seconds / 2)
            half = _memory()
            counts = [sum(each) for each in zip(*(one.result() for one in found), strict=True)]
        threads, after = threading.active_count(), _memory()
    read, left, wrong = counts
    print(
        f"{read} replies read, {left} abandoned, {wrong} wrong; {threads} threads; "
        f"memory +{half - before} MiB after half of the time, +{after - before} MiB at the end"
    )
    return int(wrong > 0)


def _asked(kind: int) -> dict[str, Any]:
    text = "A conversation that begins alike. " * (kind % 9) + f"Question {kind}?"
    more = {"logprobs": True} if kind % 5 == 0 else {}
    return {"messages": [{"role": "user", "content": text}], "seed": kind, "max_tokens": 5 + kind * 2, **more}


def _client(server: TestServer, number: int, end: float, wanted: list[str]) -> tuple[int, int, int]:
    """Ask until `end`; returns how many replies were read, abandoned and wrong."""
    chance = random.Random(number)
    read = left = wrong = 0
    while time.monotonic() < end:
        kind = chance.randrange(_KINDS)
        if chance.random() < 0.3:
            _leave(server, kind, chance)
            left += 1
            continue
        answer = server.post("/v1/chat/completions", **_asked(kind))
        wrong += answer.status != 200 or _text(answer.json) != wanted[kind]
        read += 1
    return read, left, wrong


def _leave(server: TestServer, kind: int, chance: random.Random) -> None:
    """Read a part of a stream slowly, and close the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.state.port, timeout=60)
    body = json.dumps({**_asked(kind), "stream": True, "max_tokens": 2000})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    if chance.random() < 0.7:
        response = connection.getresponse()
        response.read(chance.randrange(1, 2000))
        time.sleep(chance.random() / 10)
        response.close()
    connection.close()


def _text(answer: Any) -> str:
    return json.dumps(answer["choices"])


def _memory() -> int:
    """The resident memory of this process in MiB; 0 where it is not known."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    sys.exit(main())
