"""Runs the app: opens the port, serves until SIGTERM or Ctrl-C, and then answers what was accepted."""

import logging
import math
import os
import socket
import sys

import uvicorn
from fastapi import FastAPI

from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics


LOCAL = ("127.0.0.1", "::1", "localhost")

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
        await super().shutdown(sockets)
        sys.stdout.write(f"Stopped: {self._metrics.summary()}\n")
        sys.stdout.flush()


def run_server(app: FastAPI, listener: socket.socket, *, name: str, limits: Limits, metrics: Metrics) -> None:
    """
    Serves until SIGTERM or Ctrl-C. Then nothing more is accepted, and everything accepted is answered.

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
