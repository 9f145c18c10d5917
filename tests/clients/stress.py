"""Many clients of one server for a while, some of which leave in the middle of a reply or read slowly.

    python -m tests.clients.stress SECONDS [--clients N] [--threads N] [--timeout SECONDS] [--cache-mib N]

`llm serve` runs in a process beside the clients'. Every whole reply is compared with the one that a server gives alone.
At the end it prints how many replies were read and abandoned, and how the memory of the server has grown. Exit code 1
if a reply differs, an answer is an error, or work is left in the server once all clients have gone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llmcli
from llmcli.server.run import ServeSettings
from llmcli.server.scheduler.scheduler import WorkLimits
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.server import serving

_KINDS = 40
_TIMES = 8
"""How often memory is read while the clients run."""


def main() -> int:
    """Run the clients."""
    options = _options()
    folder = shared_checkpoint("llama", max_position_embeddings=4096)
    loaded = llmcli.load(folder, quantize="int8")
    with serving(loaded, ServeSettings(limits=WorkLimits(cache_bytes=0))) as alone:
        wanted = [_text(alone.post("/v1/chat/completions", **_asked(kind)).json) for kind in range(_KINDS)]
    with _server(folder, options) as server:
        for kind in range(_KINDS):
            server.post(_asked(kind))
        memory, end = [server.memory_mib()], time.monotonic() + options.seconds
        with ThreadPoolExecutor(options.clients) as pool:
            found = [pool.submit(_client, server, number, end, wanted) for number in range(options.clients)]
            for _ in range(_TIMES):
                time.sleep(options.seconds / _TIMES)
                memory.append(server.memory_mib())
            counts = [sum(each) for each in zip(*(one.result() for one in found), strict=True)]
        left_over = server.running()
    read, left, wrong = counts
    growth = " ".join(f"{mib - memory[0]:+d}" for mib in memory[1:])
    print(
        f"{read} replies read, {left} abandoned, {wrong} wrong, {left_over} left in the server; "
        f"{memory[0]} MiB of private memory, then every {options.seconds / _TIMES:.0f} s: {growth}"
    )
    return int(wrong > 0 or left_over > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.stress")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="threads of the server's kernel")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that a client waits for an answer")
    parser.add_argument("--cache-mib", type=int, default=64)
    return parser.parse_args()


@dataclass(frozen=True)
class _Server:
    """A server in a process of its own."""

    process: int
    port: int
    timeout: float

    def post(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the JSON of a reply."""
        connection = self.connection()
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        """A connection that is not open yet."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)

    def running(self) -> int:
        """Requests that are computed or wait, once those whose clients have gone had time to end."""
        for _ in range(100):
            connection = self.connection()
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            count = sum(map(int, re.findall(r"^llmcli:requests_\w+ (\d+)$", text, re.MULTILINE)))
            if not count:
                break
            time.sleep(0.1)
        return count

    def memory_mib(self) -> int:
        """Its memory that belongs to no file; 0 where it is not known."""
        file = Path(f"/proc/{self.process}/smaps_rollup")
        found = re.search(r"^Anonymous: +(\d+) kB", file.read_text() if file.exists() else "", re.MULTILINE)
        return int(found[1]) >> 10 if found else 0


@contextmanager
def _server(folder: Path, options: argparse.Namespace) -> Iterator[_Server]:
    """Run `llm serve` while the block runs."""
    command = [sys.executable, "-m", "llmcli", "serve", folder, "--quantize", "int8", "--port", 0, "--metrics"]
    command += ["--threads", options.threads, "--queue", options.clients, "--cache-mib", options.cache_mib]
    # A short path: that of a socket has at most 100 bytes.
    with tempfile.TemporaryDirectory(prefix="llm") as runtime:
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        with subprocess.Popen(
            [str(each) for each in command], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if line.startswith("URL: "):
                        yield _Server(process.pid, int(re.findall(r":(\d+)/", line)[0]), options.timeout)
                        break
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(options.timeout)


def _asked(kind: int) -> dict[str, Any]:
    text = "A conversation that begins alike. " * (kind % 9) + f"Question {kind}?"
    more = {"logprobs": True} if kind % 5 == 0 else {}
    return {"messages": [{"role": "user", "content": text}], "seed": kind, "max_tokens": 5 + kind * 2, **more}


def _client(server: _Server, number: int, end: float, wanted: list[str]) -> tuple[int, int, int]:
    """Ask until `end`; returns how many replies were read, abandoned and wrong."""
    chance = random.Random(number)
    read = left = wrong = 0
    while time.monotonic() < end:
        kind = chance.randrange(_KINDS)
        if chance.random() < 0.3:
            _leave(server, kind, chance)
            left += 1
            continue
        status, answer = server.post(_asked(kind))
        wrong += status != 200 or _text(answer) != wanted[kind]
        read += 1
    return read, left, wrong


def _leave(server: _Server, kind: int, chance: random.Random) -> None:
    """Read a part of a stream slowly, and close the connection."""
    connection = server.connection()
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


if __name__ == "__main__":
    sys.exit(main())
