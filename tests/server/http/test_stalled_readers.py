"""A client that stops reading its answer is disconnected; one that reads slowly gets all of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from llmcli.server.http.protocol import connection_class

PIECE = b"x" * (1 << 20)


class Sender:
    """An application that sends megabytes until the client is gone, at most `count` of them."""

    def __init__(self, count: int) -> None:
        self.count, self.sent, self.is_gone = count, 0, asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.is_gone.set()

        watching = asyncio.create_task(watch())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.sent < self.count and not self.is_gone.is_set():
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += 1
        await send({"type": "http.response.body", "body": b""})
        watching.cancel()


async def received(sender: Sender, *, stops: bool) -> int:
    """The bytes that a client gets that stops reading until it is cut, or that takes three seconds for 8 MB."""
    connection = connection_class(sender, sender, request_s=20, send_s=0.5 if stops else 2)
    config = uvicorn.Config(sender, http=connection, ws="none", lifespan="off", log_config=None)
    config.load()
    state, loop = uvicorn.Server(config).server_state, asyncio.get_running_loop()
    protocol: Any = config.http_protocol_class
    server = await loop.create_server(lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n")
        count = len(await loop.sock_recv(client, 100))
        if stops:
            await asyncio.wait_for(sender.is_gone.wait(), 20)
        pauses = 0
        try:
            while data := await loop.sock_recv(client, 1 << 18):
                count += len(data)
                if not stops and count > pauses * len(PIECE) // 4:
                    pauses += 1
                    await asyncio.sleep(0.1)
        except ConnectionResetError:
            pass
    server.close()
    return count


def test_a_client_that_stops_reading_is_disconnected() -> None:
    async def check() -> None:
        sender = Sender(1000)
        count = await received(sender, stops=True)
        # What the buffers of both sides held.
        assert 0 < count < 50 * len(PIECE) and sender.sent < 50

    asyncio.run(check())


def test_a_client_that_reads_slowly_gets_all() -> None:
    async def check() -> None:
        assert await received(Sender(8), stops=False) > 8 * len(PIECE)

    asyncio.run(check())
