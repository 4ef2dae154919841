"""What every request must pass before it is read: the key, the size of its body, and the time that this takes."""

import asyncio
import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtsbert.serving.errors import STOPPING, Refusal, error_response
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics


OPEN_PATHS = ("/health", "/ready", "/docs", "/openapi.json")  # these tell nothing of a model but its name
MAX_DISCARDED = 64_000_000  # bytes of a body that are read only to be able to refuse it


class Guard:
    """
    ASGI middleware around the whole app: checks the key, reads the body of a request, and counts requests.

    Args:
        app (`ASGIApp`): The app, which sees only requests whose body has arrived.
        limits ([`Limits`]): Bounds of a body.
        metrics ([`Metrics`]): Where requests are counted.
        api_key (`str`, *optional*): What requests must bring as a Bearer token. Default: nothing.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics, api_key: str | None = None):
        self._app, self._limits, self._metrics = app, limits, metrics
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()
        self._num_held = 0  # bytes of the bodies of all open requests
        metrics.watch(held=lambda: self._num_held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, statuses, held = time.perf_counter(), [], bytearray()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        try:
            if not await self._read_body(scope, receive, held):
                return  # the client has gone
            await self._app(scope, _replayed(bytes(held), receive), send_and_note)
        except Refusal as refusal:
            await error_response(refusal)(scope, receive, send_and_note)
        except asyncio.CancelledError:  # the server ends before this was answered
            if not statuses:
                await error_response(Refusal(503, STOPPING))(scope, receive, send_and_note)
        except Exception:
            statuses.append(500)  # which Starlette sends, outside of all middleware
            raise
        finally:
            self._num_held -= len(held)
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, statuses[0] if statuses else "none").inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

    async def _read_body(self, scope: Scope, receive: Receive, held: bytearray) -> bool:
        """
        Reads the body into `held`, and returns whether the client is still there. A body that is refused is read as
        well, but not kept: a client that is still sending would not hear the reason.

        Raises:
            [`Refusal`]: If the key is missing, or the body is too large or too slow.
        """
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        refusal = self._refusal_of_key(scope["path"], headers.get(b"authorization", b""))
        refusal = refusal or self._refusal_of_size(int(declared) if declared.isdigit() else 0, extra=0)
        deadline = time.monotonic() + self._limits.body_timeout_s
        num_discarded, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                refusal = refusal or Refusal(408, f"The body did not arrive within {self._limits.body_timeout_s:g} s.")
                break
            if message["type"] == "http.disconnect":
                return False
            chunk, more = message.get("body", b""), message.get("more_body", False)
            refusal = refusal or self._refusal_of_size(len(held) + len(chunk), extra=len(chunk))
            if refusal is None:
                held += chunk
                self._num_held += len(chunk)
            elif (num_discarded := num_discarded + len(chunk)) > MAX_DISCARDED:
                break
        if refusal is not None:
            if more:  # what else comes is no new request
                refusal.headers = {**(refusal.headers or {}), "Connection": "close"}
            raise refusal
        return True

    def _refusal_of_key(self, path: str, given: bytes) -> Refusal | None:
        """Why the header `Authorization` does not open a path; None if it does."""
        if self._expected is None or path in OPEN_PATHS or hmac.compare_digest(given, self._expected):
            return None
        return Refusal(
            401,
            "This server wants a key: send the header `Authorization: Bearer KEY`, with the value of its "
            "MTSBERT_API_KEY for KEY.",
            {"WWW-Authenticate": "Bearer"},
        )

    def _refusal_of_size(self, size: int, *, extra: int) -> Refusal | None:
        """Why a body of this size, in bytes, of which `extra` are new, is not taken; None if it is."""
        if size > self._limits.max_body_mb * 1e6:
            return Refusal(
                413,
                f"The body is larger than {self._limits.max_body_mb:g} MB. Send fewer texts at a time, or start the "
                "server with a higher --max_body_mb.",
            )
        if self._num_held + extra > self._limits.max_held_mb * 1e6:
            return Refusal(
                429,
                "The bodies of open requests fill the memory that is set aside for them. Try again later.",
                {"Retry-After": "1"},
            )
        return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then what the client still has to say."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
