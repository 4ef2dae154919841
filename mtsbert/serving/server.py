"""Runs the app: opens the port, serves until SIGTERM or Ctrl-C, and then answers what was accepted."""

import asyncio
import logging
import math
import os
import socket
import sys
import time

import uvicorn
from fastapi import FastAPI

from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics


LOCAL = ("127.0.0.1", "::1", "localhost")
LAST_SECONDS = 1.0  # in which requests are told that they are not answered
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

logger = logging.getLogger(__name__)


def open_port(host: str, port: int) -> socket.socket:
    """
    Takes a port. Connections wait there until a server accepts them.

    Args:
        host (`str`): The address, or a name of it.
        port (`int`): The port; 0 for any that is free.

    Raises:
        `ValueError`: If the port is taken or no port, or the address is not one of this machine.
    """
    if not 0 <= port <= 65_535:  # `getaddrinfo` would take the remainder
        raise ValueError(f"--port is {port}; it must be from 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere, the option would share the port with another server
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # which fails if another server has the port
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host}, port {port}, cannot be listened on: {error}") from error
    return listener


class AnnouncingServer(uvicorn.Server):
    """A server that says where it is once it accepts requests, and in the end what has become of them."""

    def __init__(self, config: uvicorn.Config, name: str, metrics: Metrics):
        super().__init__(config)
        self._name, self._metrics = name, metrics

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets if self.started else ():
            host, port = listener.getsockname()[:2]
            sys.stdout.write(f"{self._name}: http://{f'[{host}]' if ':' in host else host}:{port}\n")
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        watching = asyncio.create_task(self._end_when_forced())
        await super().shutdown(sockets)
        if self.force_exit:
            await watching
        watching.cancel()
        self._say_what_became()

    async def _end_when_forced(self) -> None:
        """
        Waits for a second Ctrl-C. Then all open requests are refused, and the process ends at once: at an orderly end,
        the thread that still runs the model would crash it.
        """
        while not self.force_exit:
            await asyncio.sleep(0.05)
        for task in list(self.server_state.tasks):
            task.cancel()  # `Guard` answers
        end = time.monotonic() + LAST_SECONDS
        while (self.server_state.tasks or self.server_state.connections) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self._say_what_became()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    def _say_what_became(self) -> None:
        sys.stdout.write(f"Stopped: {self._metrics.summary()}\n")
        sys.stdout.flush()


def run_server(app: FastAPI, listener: socket.socket, *, name: str, limits: Limits, metrics: Metrics) -> None:
    """
    Serves until SIGTERM or Ctrl-C. Then nothing more is accepted, and everything accepted is answered. Ctrl-C while
    that is done refuses what is left with status 503, and ends the process with status 130.

    Args:
        app (`FastAPI`): What [`create_app`] returned.
        listener (`socket.socket`): What [`open_port`] returned.
        name (`str`): What to call the model in the output.
        limits ([`Limits`]): What the server takes on.
        metrics ([`Metrics`]): The counters of the app.

    Raises:
        `SystemExit`: With status 3, and the reason in the log, if the model cannot answer its first text.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # /metrics counts requests
        server_header=False,
        timeout_graceful_shutdown=math.ceil(limits.timeout_s + limits.body_timeout_s) + 1,
    )
    AnnouncingServer(config, name, metrics).run(sockets=[listener])
