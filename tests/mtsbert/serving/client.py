"""A client for the tests of the server, with the standard library alone."""

import http.client
import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """Why a request was refused."""
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        assert self.json["error"]["code"] == self.status
        return self.json["error"]["message"]


class Client:
    """Sends requests to a port of this machine, each in a connection of its own."""

    def __init__(self, port: int):
        self.port = port

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def post(self, path: str, content: object, **headers: str) -> Reply:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", path, body, **{"Content_Type": "application/json", **headers})

    def later(self, path: str, content: object) -> "Future[Reply]":
        """Sends a request in the background."""
        executor = ThreadPoolExecutor(1)
        future = executor.submit(self.post, path, content)
        executor.shutdown(wait=False)
        return future

    def at_once(self, requests: list[tuple[str, object]], num_clients: int) -> list[Reply]:
        """Sends requests from several clients, each of which sends its next one when it has an answer."""
        with ThreadPoolExecutor(num_clients) as executor:
            return list(executor.map(lambda request: self.post(*request), requests))

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1])

    def open(self) -> socket.socket:
        """A connection on which nothing has been said."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def is_refused(self) -> bool:
        """Whether nothing listens on the port any more."""
        try:
            self.open().close()
        except ConnectionRefusedError:
            return True
        return False
