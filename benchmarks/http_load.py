"""Clients that put an HTTP server under load: as fast as it answers, or at a given rate."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Reply:
    """What came back: status 0 stands for a connection that ended without a whole answer."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> object:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request at a time. Leaner than a client library, which would need a core."""

    def __init__(self):
        self._received, self._reply, self._transport = bytearray(), None, None
        self.is_open = False

    @classmethod
    async def to(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def post(self, path: str, content: object) -> Reply:
        began = time.perf_counter()
        if not self.is_open:
            return Reply(0, b"", 0.0)
        body = json.dumps(content).encode()
        headers = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        head = "\r\n".join([f"POST {path} HTTP/1.1", *headers, "\r\n"])
        self._received.clear()
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(head.encode() + body)
        status, body = await self._reply
        return Reply(status, body, time.perf_counter() - began)

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = bytes(self._received).partition(b"\r\n\r\n")
        if not separator or self._reply.done():
            return
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) >= int(headers[b"content-length"]):
            self._reply.set_result((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((0, b""))


async def closed_loop(
    port: int, path: str, contents: Iterator[object], *, num_clients: int, seconds: float | None = None
) -> list[tuple[object, Reply]]:
    """
    Lets clients send one request after another, each when its last one is answered.

    Args:
        port (`int`): The server's port on this machine.
        path (`str`): The path to post to.
        contents (`Iterator`): What to send, shared by all clients.
        num_clients (`int`): The number of clients.
        seconds (`float`, *optional*): When to stop. Default: when there is nothing left to send.

    Returns:
        What was sent and what came back, in the order in which it came.
    """
    exchanged: list[tuple[object, Reply]] = []
    end = time.perf_counter() + seconds if seconds else float("inf")

    async def client() -> None:
        connection = await Connection.to(port)
        while time.perf_counter() < end and connection.is_open:
            if (content := next(contents, None)) is None:
                break
            exchanged.append((content, await connection.post(path, content)))
        connection.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return exchanged


async def open_loop(
    port: int, path: str, contents: Iterator[object], *, rate: float, seconds: float, seed: int = 0
) -> list[tuple[object, Reply]]:
    """
    Sends requests at random times (a Poisson process), whether earlier ones have been answered or not.

    Args:
        port (`int`): The server's port on this machine.
        path (`str`): The path to post to.
        contents (`Iterator`): What to send.
        rate (`float`): Mean requests per second.
        seconds (`float`): How long to send.
        seed (`int`, *optional*, defaults to 0): Seed of the times.

    Returns:
        What was sent and what came back, in the order in which it came. Seconds count from the moment at which a
        request should have been sent.
    """
    exchanged: list[tuple[object, Reply]] = []
    free: list[Connection] = []
    chance, tasks = random.Random(seed), set()
    began = due = time.perf_counter()

    async def send(content: object, due: float) -> None:
        try:
            connection = free.pop() if free else await Connection.to(port)
        except OSError:  # nobody listens any more
            exchanged.append((content, Reply(0, b"", 0.0)))
            return
        reply = await connection.post(path, content)
        reply.seconds = time.perf_counter() - due
        exchanged.append((content, reply))
        if connection.is_open:
            free.append(connection)

    while (due := due + chance.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(send(next(contents), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return exchanged
