"""Runs the real server in a thread of the tests, on a free port."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

import uvicorn

from mtsbert.serving.app import create_app
from mtsbert.serving.inference import Inference
from mtsbert.serving.limits import Limits
from mtsbert.serving.server import open_port
from tests.mtsbert.serving.client import Client


class GatedInference(Inference):
    """Answers as the model does, but only while its gate is open, and remembers the batches."""

    def __init__(self, pipeline):
        super().__init__(pipeline)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list] = []
        self.seconds = 0.0  # that each batch takes in addition

    def __call__(self, rows, options):
        self.batches.append(rows)
        assert self.gate.wait(timeout=30)
        time.sleep(self.seconds)
        if "this text breaks the model" in rows:
            raise RuntimeError("broken")
        return super().__call__(rows, options)

    def wait_for_batches(self, number: int) -> None:
        wait_until(lambda: len(self.batches) >= number)


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120  # seconds, of which a busy machine needs many
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def running(inference: Inference, api_key: str | None = None, **limits):
    """Runs the app in a thread of this process, and gives a client for it."""
    app = create_app(inference, name="tiny", limits=Limits(**limits), api_key=api_key)
    listener = open_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        inference.batches.clear()  # what warmed it up
        yield Client(listener.getsockname()[1])
    finally:
        inference.gate.set()
        server.should_exit = True
        thread.join(timeout=30)
