"""Tests that names and recipes cannot inject anything, and that only known code runs."""

import ast
import csv
import json
import re
import shutil
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from configuration_mtsbert import MTSBertConfig
from mtsbert.commands.audit import _write as write_suspects
from mtsbert.commands.demo import main as demo
from mtsbert.commands.predict import main as predict
from mtsbert.recipe import _RecipeLoader, parse_arguments
from mtsbert.results.model_card import is_language
from mtsbert.results.snippets import COMMIT, snippets
from run_mtl import main as train
from tests.mtsbert.background import ForkedProcess
from tests.mtsbert.commands.test_demo import SERVE, running, wait_for
from tests.test_doors import CODE_FILES


TEXT = "Ada Perez joins Nimbus Labs in Oslo"
NASTY = [
    "</script><script>alert(1)</script>",
    "---\nlicense: mit\n---",
    "../../x",
    "nul\x00here",
    "=cmd|' /C calc'!A0",
    "[x](javascript:alert(1))",
    '"><img src=x onerror=alert(1)>',
    "<!-- a\n\n# b -->",
    "{{ 7 * 7 }} ${7*7}",
    "\u202egnp.exe\x1b[31m",
]


# Names


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "a\x00b", "a\nb", "topic\n", "", "<b>", "a b", "topic---", "ünder", "a" * 65, 7]
)
def test_a_task_is_called_by_a_plain_word(name, recipe):
    task = {"type": "sequence_classification", "labels": ["a", "b"]}
    with pytest.raises(ValueError, match=r"a task's name (is lower-case letters|has 64 letters at most)"):
        MTSBertConfig(tasks={name: task})
    with pytest.raises(ValueError, match=r"a task's name (is lower-case letters|has 64 letters at most)"):
        train(["--config", str(recipe(tasks={name: task}))])


@pytest.fixture
def nasty_run(recipe, tmp_path) -> Path:
    """The output folder of a run on labels, entity types and a dataset with nasty names; nothing is beside it."""
    rows = [
        {"text": "Oslo beat Lima", "label": name, "entities": [{"start": 0, "end": 4, "label": name}]}
        for name in NASTY * 2
    ]
    (tmp_path / "nasty.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "nasty.jsonl"))
    columns = {"text": "text", "label": "topic", "entities": "ner"}
    path = recipe(datasets={NASTY[0]: {"files": files, "columns": columns}}, do_eval=True, do_predict=True)
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    train(["--config", str(path)])
    written = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert all(file.is_relative_to(tmp_path / "run") for file in written)
    return tmp_path / "run"


def rendered(markdown: str) -> str:
    """HTML, as a page that lets HTML through would show it."""
    markdown_it = pytest.importorskip("markdown_it", reason="renders the Markdown")
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def test_nasty_names_stay_names_wherever_they_are_written(nasty_run, tmp_path):
    card = ModelCard((nasty_run / "README.md").read_text(encoding="utf-8"))
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags", "metrics", "model-index"}
    assert re.findall(r"<(?!img src=\"plots/\w+\.png\")(?:img|script|a)\b.*", rendered(card.text)) == []
    assert [line for line in card.text.splitlines() if line in ("---", "# b -->")] == []
    plots = {path.name for path in (nasty_run / "plots").iterdir()}
    assert {"confusion_topic.png", "entities_ner.png"} <= plots <= {*plots, "losses.png"}
    assert MTSBertConfig.from_pretrained(nasty_run).tasks["topic"]["labels"] == sorted(NASTY)
    lines = (nasty_run / "predictions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 2 * len(NASTY)
    assert all(json.loads(line)["topic"]["label"] in NASTY for line in lines)
    (tmp_path / "texts.txt").write_text(TEXT)
    for name in ("answers.jsonl", "answers.parquet"):
        paths = ["--input", str(tmp_path / "texts.txt"), "--output", str(tmp_path / name)]
        predict(["--model", str(nasty_run), *paths])
    (answer,) = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(answer)["topic"]["scores"]) == sorted(NASTY)


@pytest.mark.slow
def test_the_page_has_no_markup_of_names(nasty_run, port, root, tmp_path, warm_python):
    pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
    folder = nasty_run.rename(nasty_run.with_name("<img src=x onerror=alert(1)>"))
    log, url = tmp_path / "log", f"http://127.0.0.1:{port}/"
    arguments = ["--model", str(folder), "--port", str(port)]
    with running(ForkedProcess(warm_python, SERVE, *arguments, log=log, cwd=root)) as process:
        wait_for(url, process, log)
        with urllib.request.urlopen(url) as answer:
            page = answer.read().decode()
    assert "alert(1)" in page  # as text, so that this test has something to see
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_a_space_of_a_model_with_a_nasty_name(checkpoint, tmp_path):
    folder = Path(
        shutil.copytree(checkpoint, tmp_path / "'\"\n---\nlicense: mit\n<img src=x>[x](javascript:alert(1))")
    )
    demo(["--model", str(folder), "--app", str(tmp_path / "space")])
    _, header, text = re.split(r"^---$", (tmp_path / "space" / "README.md").read_text(encoding="utf-8"), flags=re.M)
    assert yaml.safe_load(header)["title"] == folder.name
    assert "license" not in yaml.safe_load(header)
    assert "<img" in text.replace("&lt;", "<")
    assert not re.search(r"<(img|a)\b", rendered(text))
    assigned = {
        node.targets[0].id: node.value.value
        for node in ast.parse((tmp_path / "space" / "app.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert (assigned["MODEL"], assigned["REVISION"]) == (str(folder.resolve()), None)


def test_a_cell_of_a_csv_file_is_no_formula(tmp_path):
    row = {"row": 7, "text": "=cmd|' /C calc'!A0", "label": "@SUM(A1)", "suggested": "a-b", "probability": -0.5}
    write_suspects([row], tmp_path / "suspects.csv")
    with (tmp_path / "suspects.csv").open(newline="", encoding="utf-8") as lines:
        (found,) = csv.DictReader(lines)
    assert list(found.values()) == ["7", "'=cmd|' /C calc'!A0", "'@SUM(A1)", "a-b", "-0.5"]
    write_suspects([row], tmp_path / "suspects.jsonl")
    assert json.loads((tmp_path / "suspects.jsonl").read_text()) == row


@pytest.mark.parametrize("language", [{"a": "b"}, ["en"], 7, False, "en\nlicense: mit", "---", ""])
def test_what_is_no_language_of_a_dataset_is_none_of_the_model(language):
    assert not is_language(language)
    assert is_language("en")
    assert is_language("zh-Hant")


# Recipes


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os"])
def test_a_recipe_is_data(tag, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: {tag} ['touch {tmp_path / 'crater'}']\n")
    with pytest.raises(ValueError, match=r"is not YAML: could not determine a constructor for the tag"):
        parse_arguments(["--config", str(path)])
    assert not (tmp_path / "crater").exists()


def test_every_reader_of_yaml_is_a_safe_one(root):
    files = [*root.glob("*.py"), *(root / "mtsbert").rglob("*.py"), *(root / "data_prep").glob("*.py")]
    for file in [*files, *(root / "benchmarks").rglob("*.py")]:
        called = re.findall(r"yaml\.(?!safe_load\b|safe_dump\b)\w*load\w*\(.*", file.read_text(encoding="utf-8"))
        assert all("Loader=_RecipeLoader" in call for call in called), file
    assert issubclass(_RecipeLoader, yaml.SafeLoader)


# What a checkpoint runs


def test_the_code_of_a_checkpoint_is_short_and_reaches_for_nothing(root):
    """What `trust_remote_code=True` runs: seven files that neither run programs nor open connections."""
    # transformers cannot be installed without safetensors
    allowed = {"transformers", "torch", "safetensors", *(Path(name).stem for name in CODE_FILES)}
    num_lines = 0
    for name in CODE_FILES:
        text = (root / name).read_text(encoding="utf-8")
        num_lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.partition(".")[0] in allowed | sys.stdlib_module_names, f"{name}: {module}"
                banned = {"os", "subprocess", "socket", "pickle", "shutil", "urllib", "http", "ctypes", "importlib"}
                assert module.partition(".")[0] not in banned, f"{name}: {module}"
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called not in ("eval", "exec", "compile", "open", "__import__"), f"{name}: {called}"
    assert num_lines < 2_400


@pytest.mark.parametrize("page", ["README.md", "docs"])
def test_downloaded_code_is_pinned_wherever_it_is_documented(root, page):
    pages = [root / page] if page.endswith(".md") else sorted((root / page).rglob("*.md"))
    for file in pages:
        blocks = re.findall(r"```\w+\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)
        for call in re.findall(r"\w+\([^()]*trust_remote_code=True[^()]*\)", "\n".join(blocks)):
            assert re.search(r"\"(runs|exports)/|revision=", call), f"{file.name}: {call}"


def test_a_card_of_the_hub_pins_the_code_that_its_snippets_run(config):
    for title, (language, code) in snippets(config, "some/name", is_hub_id=True).items():
        assert code.count("trust_remote_code=True") == code.count(f'revision="{COMMIT}"'), title
        if language == "python":
            compile(code, title, "exec")
    assert not any(COMMIT in code for _, code in snippets(config, "run").values())


def test_a_space_of_a_model_whose_commit_is_unknown_is_refused(monkeypatch, checkpoint, tmp_path):
    monkeypatch.setattr(
        "mtsbert.commands.demo.load_checkpoint_config", lambda *_, **__: MTSBertConfig.from_pretrained(checkpoint)
    )
    with pytest.raises(ValueError, match="The commit of some/name that the page shall run is not known"):
        demo(["--model", "some/name", "--app", str(tmp_path / "space")])
    assert not (tmp_path / "space").exists()
