"""A model hub on the loopback interface: repositories in memory, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1000
"""Files of this size and more are "large": they have a known sha256 and are served by another host."""

CONFIG = json.dumps({"model_type": "llama", "hidden_size": 4}).encode()


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()


@dataclass
class FakeHub:
    """Its state, which tests may change between requests."""

    port: int = 0
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path, headers) of all requests, in order."""
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Part of a path -> status and error code to answer with instead."""
    cut: set[str] = field(default_factory=set)
    """Names of files of which only half is sent."""
    wrong: set[str] = field(default_factory=set)
    """Names of files that are sent with wrong content of the right size."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that replace the true ones in all responses about files."""
    listing: bytes | None = None
    """The response to listing requests, if not the listing."""
    changes: dict[str, object] = field(default_factory=dict)
    """Fields that replace those of a listing; those in "sibling" replace fields of every file."""
    stall: threading.Event | None = None
    """If set, large files stop in the middle until the event is set."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """Names of the files that were requested."""
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        for part, (status, code) in self.hub.answers.items():
            if part in path:
                self._send(status, b"", {"X-Error-Code": code} if code else {}, body=body)
                return
        if path.startswith("/api/models/"):
            self._model_info(path.removeprefix("/api/models/"), body=body)
        elif "/resolve/" in path or path.startswith("/cdn/"):
            self._file(path, body=body)
        else:
            self._send(404, b"", {}, body=body)

    def _model_info(self, rest: str, *, body: bool) -> None:
        repo, _, revision = rest.partition("/revision/")
        files = self.hub.repos.get(repo)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
            return
        if revision not in ("", "main", "v1", commit_of(files)):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
            return
        if self.hub.listing is not None:
            self._send(200, self.hub.listing, {"Content-Type": "text/html"}, body=body)
            return
        siblings = []
        for name, data in files.items():
            sibling: dict[str, object] = {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
            }
            if len(data) >= LARGE:
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            of_files = self.hub.changes.get("sibling", {})
            siblings.append({**sibling, **of_files} if isinstance(of_files, dict) else of_files)
        info: dict[str, object] = {
            "id": repo,
            "sha": commit_of(files),
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        info |= {key: value for key, value in self.hub.changes.items() if key != "sibling"}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body=body)

    def _file(self, path: str, *, body: bool) -> None:
        from_cdn = path.startswith("/cdn/")
        repo, _, rest = path.removeprefix("/cdn").lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        files = self.hub.repos[repo]
        data = files[name]
        headers = {"X-Repo-Commit": commit_of(files), "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        headers |= self.hub.headers
        if len(data) >= LARGE and not from_cdn:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data))
            headers["Location"] = f"http://localhost:{self.hub.port}/cdn{path}"
            self._send(302, b"", headers | self.hub.headers, body=body)
            return
        if name in self.hub.wrong:
            data = bytes(byte ^ 1 for byte in data)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self._send(206 if start else 200, data[start:], headers, body=body, name=name)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool, name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        half = len(data) // 2
        if name in self.hub.cut:
            self.wfile.write(data[:half])
            self.close_connection = True
        elif name and self.hub.stall is not None and len(data) >= LARGE:
            self.wfile.write(data[:half])
            self.wfile.flush()
            self.hub.stall.wait(20)
        else:
            self.wfile.write(data)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # some tests disconnect in the middle

    with Server(("127.0.0.1", 0), handler) as server:
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def sharded_repo() -> dict[str, bytes]:
    """A model in two shards, and many files that a pull must not fetch."""
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    return {
        "README.md": b"read me",
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"a": 1}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"1" * 5000,
        "model-00002-of-00002.safetensors": b"2" * 6000,
        "consolidated.safetensors": b"3" * 7000,
        "pytorch_model.bin": b"4" * 2000,
        "original/consolidated.00.pth": b"5" * 2000,
        "onnx/model.onnx": b"6" * 2000,
        "../../escape.json": b"{}",
    }
