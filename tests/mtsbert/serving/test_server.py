"""Tests the command: a real process, its output, and its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest


pytest.importorskip("fastapi", reason="FastAPI is not installed (requirements-serve.txt)")

from mtsbert.commands.serve import main
from mtsbert.exports.pipeline import ExportedPipeline, load_pipeline
from mtsbert.serving.app import create_app
from mtsbert.serving.inference import Inference
from mtsbert.serving.limits import Limits
from mtsbert.serving.metrics import Metrics
from mtsbert.serving.server import open_port, run_server
from tests.mtsbert.background import ForkedProcess
from tests.mtsbert.serving.client import Client
from tests.mtsbert.serving.servers import wait_until


SERVE = "sys.argv[0] = 'mtsbert'; runpy.run_module('mtsbert', run_name='__main__', alter_sys=True)"


@contextmanager
def serving(*arguments: str, cwd, log, python=None, **environment: str):
    """
    Runs `mtsbert serve` on a free port, with all that it says in the log. Yields its process and a client.

    Args:
        python (`WarmPython`, *optional*): Runs it in a fork, without the time of imports; default: a new interpreter.
    """
    words = ["serve", "--port", "0", *arguments]
    if python is not None:
        process = ForkedProcess(python, SERVE, *words, log=log, cwd=cwd, variables=environment)
    else:
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mtsbert", *words],
                cwd=cwd,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                # Where tests run in the background of a shell, it has told all its children to ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
    try:
        while (address := re.search(r": http://[\d.]+:(\d+)\n", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield process, Client(int(address[1]))
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_everything_accepted_is_answered_after_sigterm(checkpoint, root, tmp_path):
    log = tmp_path / "log"
    arguments = ["--model", str(checkpoint), "--max_batch_tokens", "64"]
    arguments += ["--timeout_s", "600"]  # so that no request is refused because the first batch took long
    with serving(*arguments, cwd=root, log=log) as (process, client):
        assert f"\n{checkpoint.name}: http://127.0.0.1:" in f"\n{log.read_text()}"

        def work(number: int) -> list[int]:
            statuses = []
            try:
                while True:
                    reply = client.post("/embed", {"inputs": ["Oslo beat Lima " * 5] * 8})
                    assert len(reply.json) == 8
                    statuses.append(reply.status)
                    if number == 0 and len(statuses) == 5:
                        process.send_signal(signal.SIGTERM)
            except OSError:  # it accepts nothing more
                return statuses

        with ThreadPoolExecutor(8) as executor:
            statuses = [status for found in executor.map(work, range(8)) for status in found]
        assert process.wait(timeout=30) == -signal.SIGTERM
    last = log.read_text()
    assert set(statuses) == {200}
    assert (
        f"Stopped: {len(statuses)} requests accepted, {len(statuses)} answered, 0 out of time, 0 failed, 0 cut off."
        in last
    )
    assert "Traceback" not in last


@pytest.mark.slow
def test_a_key_and_a_name_and_an_open_address(checkpoint, root, tmp_path, warm_python):
    log = tmp_path / "log"
    arguments = ["--model", str(checkpoint), "--name", "news", "--host", "0.0.0.0"]
    environment = {"MTSBERT_API_KEY": "secret-of-a-test"}
    with serving(*arguments, cwd=root, log=log, python=warm_python, **environment) as (process, client):
        assert client.get("/v1/models").status == 401
        listed = client.get("/v1/models", Authorization="Bearer secret-of-a-test").json["data"]
        assert [model["id"] for model in listed] == ["news"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    said = log.read_text()
    assert "Everybody who can reach" not in said  # since there is a key
    assert "secret-of-a-test" not in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_the_server_stops_refuses_what_is_open_and_ends_it(
    checkpoint, root, tmp_path, warm_python, first
):
    long = ["Oslo beat Lima " * 1_300] * 90  # takes the model many seconds
    log = tmp_path / "log"
    arguments = ["--model", str(checkpoint), "--timeout_s", "600"]
    with serving(*arguments, cwd=root, log=log, python=warm_python) as (process, client):
        ready = log.read_text()
        replies = [client.later("/analyze", {"inputs": long}) for _ in range(3)]
        with client.open() as slow:
            slow.sendall(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: client.metric("mtsbert_accepted_total") == 3)
            process.send_signal(first)
            wait_until(client.is_refused)  # two signals at once may count as one
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            assert process.wait(timeout=30) == 130
            assert time.monotonic() - began < 4
            assert slow.recv(100).startswith(b"HTTP/1.1 503")
    assert [(reply.result().status, reply.result().reason) for reply in replies] == [
        (503, "The server is stopping. Send the request to another one.")
    ] * 3
    assert (
        log.read_text().removeprefix(ready)
        == "Stopped: 3 requests accepted, 0 answered, 0 out of time, 0 failed, 3 cut off.\n"
    )


def test_an_open_address_without_a_key_is_warned_of(checkpoint, monkeypatch, caplog):
    monkeypatch.delenv("MTSBERT_API_KEY", raising=False)
    monkeypatch.setattr("mtsbert.serving.server.run_server", lambda *_, **__: None)
    for host, is_warned in {"127.0.0.1": False, "0.0.0.0": True}.items():
        caplog.clear()
        main(["--model", str(checkpoint), "--host", host, "--port", "0"])
        assert ("Everybody who can reach 0.0.0.0 can send requests. Set MTSBERT_API_KEY" in caplog.text) == is_warned


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--max_queue", "8"], "--max_texts is 256, and --max_queue is 8"),
        (["--max_batch_tokens", "-1"], "--max_batch_tokens is -1; it must be more than 0"),
        (["--max_batch_tokens", "0"], "--max_batch_tokens is 0; it must be more than 0"),
        (["--port", "99999"], "--port is 99999; it must be from 0 to 65535"),
        (["--timeout_s", "inf"], "--timeout_s is inf; it must be finite"),
        (["--host", "192.0.2.7"], "192.0.2.7, port 0, cannot be listened on"),
    ],
)
def test_impossible_flags_are_refused_before_anything_is_served(checkpoint, flags, reason):
    with pytest.raises(ValueError, match=reason):
        main(["--model", str(checkpoint), "--port", "0", *flags])


def test_a_model_that_cannot_answer_is_not_served(ask, monkeypatch, capsys):
    broken = Inference(ask)
    monkeypatch.setattr(Inference, "__call__", lambda *_: 1 / 0)
    metrics = Metrics()
    app = create_app(broken, name="broken", limits=Limits(max_batch_tokens=64), metrics=metrics)
    with open_port("127.0.0.1", 0) as listener, pytest.raises(SystemExit, match="3"):
        run_server(app, listener, name="broken", limits=Limits(), metrics=metrics)
    assert "http://" not in capsys.readouterr().out


def test_a_port_in_use_is_named(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1, port {port}, cannot be listened on"):
            main(["--model", str(checkpoint), "--port", str(port)])


def test_a_port_that_another_server_has_taken_but_not_begun_to_serve_is_named():
    with open_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1, port {port}, cannot be listened on"):
            open_port("127.0.0.1", port)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (" ", "is set, but empty"),
        ("secret\n", "begins or ends with whitespace"),
        (" secret", "begins or ends with whitespace"),
    ],
)
def test_a_key_that_no_request_can_bring_is_refused(checkpoint, monkeypatch, key, reason):
    monkeypatch.setenv("MTSBERT_API_KEY", key)
    with pytest.raises(ValueError, match=f"MTSBERT_API_KEY {reason}") as error:
        main(["--model", str(checkpoint), "--port", "0"])
    assert "secret" not in str(error.value)


def test_the_warm_up_takes_passes_alone_and_in_parallel(ask, monkeypatch):
    are_alone = []
    run = ask._outputs

    def noting(inputs, *, is_alone, tasks):
        are_alone.append(is_alone)
        return run(inputs, is_alone=is_alone, tasks=tasks)

    monkeypatch.setattr(ask, "_outputs", noting)
    Inference(ask).warm_up()
    assert are_alone == [True, False, False]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not an mtsbert checkpoint"):
        main(["--model", str(tmp_path), "--port", "0"])


def test_the_extra_that_is_missing_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ValueError, match=r"prometheus_client is not installed: `pip install 'mtsbert\[serve\]'`"):
        main(["--model", str(checkpoint)])


def test_an_export_answers_as_the_checkpoint_does(exported, ask, serve, close):
    pipeline = load_pipeline(exported)
    assert isinstance(pipeline, ExportedPipeline)
    client, _ = serve(pipeline)
    assert {"_alone", "_beside_others", "_pairs"} <= set(vars(pipeline.model.graphs))  # the sessions are open
    pair = {"text": "Oslo beat Lima", "text_pair": "Lima"}
    found = client.post("/analyze", {"inputs": [pair, "Lima hosts the race"], "return_embeddings": True}).json
    assert close(found, ask([pair, "Lima hosts the race"]), 1e-4)
