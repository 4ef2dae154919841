"""Tests what a request must pass before it is read: the key, the size of its body, and the time that it takes."""

import asyncio
import json
import time
from http.client import HTTPResponse

import pytest


pytest.importorskip("fastapi", reason="FastAPI is not installed (requirements-serve.txt)")

from mtsbert.serving.guard import Guard
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics
from tests.mtsbert.serving.servers import wait_until


KEY = "a-key-of-this-test"
HEAD = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def said(connection) -> tuple[int, str]:
    """Reads one answer on a connection. Returns its status and reason."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())["error"]["message"]


def is_closed(connection) -> bool:
    """Waits for the server to say something more, or to close the connection."""
    connection.settimeout(60)
    return connection.recv(1) == b""


@pytest.mark.parametrize("value", [None, "Bearer wrong", KEY, f"Basic {KEY}", ""])
def test_without_the_key_nothing_is_answered(serve, value):
    header = {} if value is None else {"Authorization": value}
    client, model = serve(api_key=KEY)
    for path in ("/analyze", "/v1/embeddings", "/nowhere"):
        reply = client.post(path, {"inputs": "a"}, **header)
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in reply.reason
        assert KEY not in reply.text
    assert client.get("/metrics").status == 401
    assert model.batches == []


def test_with_the_key_everything_is_answered_and_probes_need_none(serve):
    client, _ = serve(api_key=KEY)
    assert client.post("/embed", {"inputs": "a"}, Authorization=f"Bearer {KEY}").status == 200
    assert client.get("/metrics", Authorization=f"Bearer {KEY}").status == 200
    assert [client.get(path).status for path in ("/health", "/ready", "/docs", "/openapi.json")] == [200] * 4


def test_a_body_of_50_megabytes_is_refused_with_a_reason(serve):
    client, _ = serve(body_timeout_s=120)  # a busy machine needs seconds for it
    reply = client.post("/analyze", b"[" + b" " * 50_000_000 + b"]")
    assert reply.status == 413
    assert "The body is larger than 2 MB." in reply.reason


def test_a_body_of_unknown_size_is_refused_when_it_grows_too_large(server):
    with server.open() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            connection.sendall(b"7a120\r\n" + b" " * 500_000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert said(connection)[0] == 413
        connection.sendall(HEAD + b"Content-Length: 15\r\n\r\n" + b'{"inputs": "a"}')  # the next one on it
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.post("/embed", {"inputs": "a"}).status == 200


def test_a_client_that_never_ends_its_body_is_told_so(serve):
    client, _ = serve(body_timeout_s=1)
    with client.open() as connection:
        connection.sendall(HEAD + b'Content-Length: 20\r\n\r\n{"inputs"')
        began = time.monotonic()
        assert client.post("/embed", {"inputs": "others"}).status == 200  # meanwhile
        assert said(connection) == (408, "The body did not arrive within 1 s.")
        assert is_closed(connection)
        assert time.monotonic() - began < 5


def test_a_client_that_trickles_an_oversized_body_does_not_hold_the_server(serve):
    client, _ = serve(body_timeout_s=0.3)
    with client.open() as connection:
        connection.sendall(HEAD + b"Content-Length: 50000000\r\n\r\n{")
        assert said(connection)[0] == 413
        assert is_closed(connection)


def test_bodies_of_open_requests_have_a_limit_together(serve):
    client, _ = serve(max_body_mb=1, max_held_mb=1.5, body_timeout_s=20)
    with client.open() as connection:
        connection.sendall(HEAD + b"Content-Length: 950000\r\n\r\n" + b" " * 900_000)
        wait_until(lambda: client.metric("mtsbert_held_bytes") == 900_000)
        reply = client.post("/embed", b" " * 800_000)
        assert reply.status == 429
        assert "The bodies of open requests fill the memory that is set aside" in reply.reason
        assert reply.headers["retry-after"] == "1"
        assert client.post("/embed", {"inputs": "small"}).status == 200
        connection.sendall(b" " * 49_998 + b"{}")  # the end of the body, which frees its place
        assert said(connection)[0] == 422
    assert client.post("/embed", b" " * 800_000).status == 400


def test_a_client_that_goes_away_does_no_harm(server):
    for sent in (b"", HEAD, HEAD + b"Content-Length: 20\r\n\r\n{", b"nonsense\r\n\r\n"):
        with server.open() as connection:
            connection.sendall(sent)
    assert server.post("/embed", {"inputs": "a"}).status == 200


@pytest.mark.parametrize("has_body", [True, False])
def test_a_request_that_the_end_of_the_server_cuts_off_is_told_so_in_json(has_body):
    sent, metrics = [], Metrics()

    async def never(*_) -> None:
        await asyncio.Event().wait()

    async def receive() -> dict:
        return {"type": "http.request"} if has_body else await never()

    async def send(message: dict) -> None:
        sent.append(message)

    async def scenario() -> None:
        scope = {"type": "http", "path": "/embed", "headers": []}
        request = asyncio.create_task(Guard(never, limits=Limits(), metrics=metrics)(scope, receive, send))
        await asyncio.sleep(0.01)
        request.cancel()
        await request

    asyncio.run(scenario())
    assert sent[0]["status"] == 503
    assert "The server is stopping" in json.loads(sent[1]["body"])["error"]["message"]
    assert 'status="503"' in metrics.as_text().decode()
