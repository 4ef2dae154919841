"""Tests the demo page: its results, its HTML, and the files of a Space."""

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from html import escape
from importlib.metadata import version
from itertools import pairwise

import pytest
import yaml
from packaging.requirements import Requirement
from transformers import set_seed

from configuration_mtsbert import ONTONOTES_TYPES
from entities_mtsbert import bio_labels
from modeling_mtsbert import MTSBertModel
from mtsbert.commands.demo import SDK_VERSION, load_pipeline, main
from tests.mtsbert.background import ForkedProcess


# Says when anything but this machine is spoken to: Python tells of every name looked up and every connection.
WATCHED = """
import runpy, sys
def watch(event, args):
    host = args[0] if event == "socket.getaddrinfo" else args[1] if event == "socket.connect" else None
    host = host[0] if isinstance(host, tuple) else host
    if host and str(host) not in ("127.0.0.1", "localhost", "0.0.0.0"):
        print("reached for", host, file=sys.stderr, flush=True)
sys.addaudithook(watch)
"""
SERVE = WATCHED + "sys.argv.insert(1, 'demo'); runpy.run_module('mtsbert', run_name='__main__', alter_sys=True)"
RUN_APP = WATCHED + "runpy.run_path('app.py', run_name='__main__')"
HTML = "<img src=x onerror=\"document.title='broken in'\"> & Oslo"
TEXT = "Ada Perez joins Nimbus Labs in Oslo"


@pytest.fixture(scope="module")
def checkpoint(encoder_folder, tokenizer, tmp_path_factory):
    """A model with a task of every kind, one of whose labels looks like HTML."""
    set_seed(0)
    tasks = {
        "topic": {"type": "sequence_classification", "labels": ["Business", "<b>Sports</b>"]},
        "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]},
        "tags": {"type": "sequence_classification", "labels": ["oil", "trade"], "multi_label": True},
        "follows": {"type": "pair_classification", "labels": ["no", "yes"]},
        "near": {"type": "pair_similarity", "score_range": [1, 5]},
    }
    folder = tmp_path_factory.mktemp("demo") / "tiny"
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
    model.as_pipeline(tokenizer)  # so that the folder carries the pipeline's file
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ask(checkpoint):
    return load_pipeline(str(checkpoint))


@pytest.fixture(scope="module")
def app():
    """The module of the page. Its imports warn of things that are upstream's."""
    pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
    return importlib.import_module("mtsbert.page.app")


@contextmanager
def running(process):
    """Gives a process, and ends it."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def components_of(app, ask, title: str) -> list[dict]:
    async def build():  # with no event loop running, gradio makes four and closes none
        return app.build_page(ask, title).get_config_file()

    return asyncio.run(build())["components"]


def wait_for(url: str, process: subprocess.Popen, log) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"no page after ten minutes: {log.read_text()}")


def contrast_with_white(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio of `#rrggbb` and white."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_a_text_is_shown_with_all_that_the_pipeline_says_of_it(app, ask):
    expected = ask(HTML)
    shown = app.read_text(ask, HTML)
    assert set(shown) == {"ner", "topic", "tags"}
    assert shown["topic"] == expected["topic"]["scores"]
    assert shown["tags"] == expected["tags"]["scores"]
    assert shown["ner"]["text"] == HTML
    assert len(shown["ner"]["entities"]) == len(expected["ner"]) > 0
    for shown_span, span in zip(shown["ner"]["entities"], expected["ner"], strict=True):
        assert shown_span == {"entity": span["label"], "start": span["start"], "end": span["end"]}


def test_two_texts_are_shown_with_their_cosine_and_every_pair_task(app, ask):
    expected = ask((TEXT, HTML))
    cosine = expected["near"]["score"]
    shown = app.compare_texts(ask, TEXT, HTML)
    assert shown == {
        "cosine": f"{cosine:.2f}",
        "follows": expected["follows"]["scores"],
        "near": f"{min(max(1 + 4 * cosine, 1), 5):.2f} of 5",
    }
    assert app.compare_texts(ask, TEXT, TEXT)["near"] == "5.00 of 5"


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_text_without_words_has_no_answers(app, ask, blank):
    assert app.read_text(ask, blank) == {}
    assert app.compare_texts(ask, TEXT, blank) == {}
    assert app.compare_texts(ask, blank, TEXT) == {}


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (["topic"], {"label": ["topic", "cosine"], "highlightedtext": [], "tabitem": ["One text", "Two texts"]}),
        (["ner"], {"label": ["cosine"], "highlightedtext": ["ner"], "tabitem": ["One text", "Two texts"]}),
        (["follows"], {"label": ["cosine", "follows"], "highlightedtext": [], "tabitem": ["Two texts"]}),
    ],
)
def test_the_page_shows_the_tasks_that_the_model_has_and_no_others(app, checkpoint, kept, expected):
    ask = load_pipeline(str(checkpoint))
    ask.model.config.tasks = {task: ask.model.config.tasks[task] for task in kept}
    components = components_of(app, ask, "tiny")
    for kind, labels in expected.items():
        found = [component["props"]["label"] for component in components if component["type"] == kind]
        assert [label.partition(" of the two")[0] for label in found] == labels


def test_the_name_of_the_model_is_no_html(app, ask):
    components = components_of(app, ask, HTML)
    (title,) = [component["props"]["value"] for component in components if component["type"] == "html"]
    assert title == f"<h1>{escape(HTML)}</h1>"


def test_every_entity_type_of_ontonotes_has_its_own_colour_that_white_is_read_on(app):
    colours = app.entity_colours(bio_labels(ONTONOTES_TYPES))
    assert sorted(colours) == sorted(ONTONOTES_TYPES)
    assert len(set(colours.values())) == len(ONTONOTES_TYPES)
    assert min(map(contrast_with_white, colours.values())) >= 4.5  # WCAG's level AA


def test_without_gradio_the_error_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # what an import makes of a package that is not there
    with pytest.raises(ValueError, match=r"pip install -r requirements-demo\.txt"):
        main(["--model", str(checkpoint)])


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_command_with_one_line(app, checkpoint, root, warm_python):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = warm_python.run("-m", "mtsbert", "demo", "--model", checkpoint, "--port", str(port), cwd=root)
    assert done.returncode == 1
    assert f"\nError: 127.0.0.1, port {port}, cannot be listened on" in f"\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_a_space_has_the_page_itself_with_the_model_named(checkpoint, root, tmp_path, capsys):
    main(["--model", str(checkpoint), "--app", str(tmp_path / "space")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space"]
    page = (root / "mtsbert" / "page" / "app.py").read_text(encoding="utf-8").splitlines()
    written = (tmp_path / "space" / "app.py").read_text(encoding="utf-8").splitlines()
    (change,) = [pair for pair in zip(page, written, strict=True) if pair[0] != pair[1]]
    assert change[1].partition("  #")[0] == f"MODEL = {str(checkpoint)!r}"
    _, header, text = (tmp_path / "space" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "title": "tiny",
        "sdk": "gradio",
        "sdk_version": SDK_VERSION,
        "python_version": "3.11",
        "app_file": "app.py",
    }
    assert "tasks topic, ner, tags, follows, near" in text
    assert "needs its Hub id" in capsys.readouterr().out


def test_a_space_installs_versions_that_this_project_allows(checkpoint, root, tmp_path):
    main(["--model", str(checkpoint), "--app", str(tmp_path / "space")])
    allowed = {}
    for name in ("requirements.txt", "requirements-demo.txt"):
        lines = (root / name).read_text().splitlines()
        allowed |= {asked.name: asked.specifier for asked in map(Requirement, (x for x in lines if x[0] != "#"))}
    written = [Requirement(line) for line in (tmp_path / "space" / "requirements.txt").read_text().splitlines()]
    assert [asked.name for asked in written] == ["gradio", "torch", "transformers"]
    for asked in written:
        (exactly,) = asked.specifier
        assert exactly.operator == "=="
        assert allowed[asked.name].contains(exactly.version)
        assert "+" not in exactly.version  # a build of this machine (2.13.0+cpu), which PyPI does not have


def test_a_space_of_an_adapter_installs_peft(checkpoint, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(checkpoint)}))
    main(["--model", str(tmp_path / "one"), "--app", str(tmp_path / "space")])
    needed = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in needed] == ["gradio", "torch", "transformers", "peft"]
    assert needed[-1] == f"peft=={version('peft')}"


def test_a_folder_that_is_there_and_a_model_that_is_not_are_refused(checkpoint, tmp_path):
    (tmp_path / "space").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        main(["--model", str(checkpoint), "--app", str(tmp_path / "space")])
    with pytest.raises(ValueError, match="No checkpoint found"):
        main(["--model", str(tmp_path / "nothing"), "--app", str(tmp_path / "new")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_app_of_a_space_answers_on_its_own_and_speaks_to_nobody(app, ask, checkpoint, port, tmp_path):
    from gradio_client import Client

    main(["--model", str(checkpoint), "--app", str(tmp_path / "space")])
    log, url = tmp_path / "log", f"http://127.0.0.1:{port}/"
    environment = {"GRADIO_SERVER_PORT": str(port), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_APP],
            cwd=tmp_path / "space",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    with running(process):
        wait_for(url, process, log)
        _, topic, tags, spans = Client(url, verbose=False).predict(TEXT, api_name="/read")
    expected = ask(TEXT)
    assert topic["label"] == expected["topic"]["label"]
    assert {row["label"]: row["confidence"] for row in tags["confidences"]} == pytest.approx(
        expected["tags"]["scores"], abs=1e-5
    )
    assert [row["token"] for row in spans if row["class_or_confidence"]] == [span["text"] for span in expected["ner"]]
    assert "reached for" not in log.read_text()


@pytest.mark.slow
def test_in_a_browser_the_page_answers_shows_html_as_text_and_fetches_nothing(
    app, ask, checkpoint, browser, addresses_asked, port, root, warm_python, tmp_path
):
    from selenium.webdriver.support.ui import WebDriverWait

    log, url = tmp_path / "log", f"http://127.0.0.1:{port}/"
    wait = WebDriverWait(browser, 60)

    def find(selector: str):
        return browser.find_element("css selector", selector)

    def page_has(text: str) -> None:
        wait.until(lambda _: text in find("body").text)

    def write(text: str) -> None:
        box = find("textarea")
        box.clear()
        box.send_keys(text)
        find("button.primary").click()

    arguments = ["--model", str(checkpoint), "--port", str(port)]
    with running(ForkedProcess(warm_python, SERVE, *arguments, log=log, cwd=root)) as process:
        wait_for(url, process, log)
        with pytest.raises(ConnectionRefusedError):  # it listens on 127.0.0.1 and nowhere else
            socket.create_connection(("127.0.0.2", port), timeout=5)
        browser.get(url)
        page_has("%")  # the first example, answered as the page opens
        assert "<b>Sports</b>" in find("body").text
        write(HTML)
        # The entities that it has found are marked, and all of the text is there as text.
        edges = [0, *(edge for span in ask(HTML)["ner"] for edge in (span["start"], span["end"])), len(HTML)]
        for start, end in pairwise(edges):
            page_has(HTML[start:end].strip())
        write("  ")
        page_has(app.NO_TEXT)
        asked = addresses_asked()
        assert browser.title == "tiny"
        assert browser.find_elements("css selector", "img[src=x]") == []
    assert url in asked
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []
    assert f"tiny: {url}" in log.read_text()
    assert "reached for" not in log.read_text()
