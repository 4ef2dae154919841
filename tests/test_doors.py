"""Tests that a saved folder can be loaded in a fresh interpreter without this repository on `sys.path`."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertModel, pipeline

from modeling_mtsbert import MTSBertForSequenceClassification, MTSBertForTokenClassification, MTSBertModel
from pipeline_mtsbert import MTSBertPipeline


CODE_FILES = [
    "answers_mtsbert.py",
    "configuration_mtsbert.py",
    "entities_mtsbert.py",
    "heads_mtsbert.py",
    "losses_mtsbert.py",
    "modeling_mtsbert.py",
    "pipeline_mtsbert.py",
]
PYTHON_FILES = sorted([*CODE_FILES, "handler.py"])  # of a checkpoint; the last one is not loaded with the model
TEXT = "Ada Perez joins Nimbus Labs in Oslo"

LOAD_EVERYTHING = """
import sys
assert not [path for path in sys.path if {root!r} == path], sys.path
import json, logging, warnings
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

said = []
class Listener(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger().addHandler(Listener(level=logging.WARNING))
transformers.utils.logging.enable_propagation()
warnings.simplefilter("error")

inputs = AutoTokenizer.from_pretrained({folder!r}, trust_remote_code=True)({text!r}, return_tensors="pt")
found = {{}}
for auto_class in (AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification):
    model, info = auto_class.from_pretrained({folder!r}, trust_remote_code=True, output_loading_info=True)
    assert "transformers_modules" in type(model).__module__, type(model)
    assert not any(info.values()), info
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    logits = logits if isinstance(logits, dict) else {{"view": logits}}
    found[auto_class.__name__] = {{name: value.numpy().tobytes().hex() for name, value in logits.items()}}
pipeline = transformers.pipeline("multi-task", model={folder!r}, trust_remote_code=True)
found["pipeline"] = pipeline({text!r})
assert not said, said
json.dump(found, open({answer!r}, "w"))
"""


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_fresh_interpreter(script: str, cwd, cache) -> None:
    """Runs a script without the clone on `sys.path`, with an empty cache of remote code."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=cwd,
        env={**environment, "HF_MODULES_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def bits(tensor: torch.Tensor) -> str:
    return tensor.detach().numpy().tobytes().hex()


def test_a_checkpoint_carries_its_code(checkpoint):
    assert sorted(path.name for path in checkpoint.glob("*.py")) == PYTHON_FILES


@pytest.mark.parametrize("kind", ["model", "layered_model"])
def test_model_views_and_pipeline_load_bit_equal_and_in_silence(
    kind, request, tokenizer, root, tmp_path, run_elsewhere
):
    model, checkpoint = request.getfixturevalue(kind), tmp_path / "checkpoint"
    for part in (model, tokenizer):
        part.save_pretrained(checkpoint)
    answer = tmp_path / "answer.json"
    script = LOAD_EVERYTHING.format(root=str(root), folder=str(checkpoint), text=TEXT, answer=str(answer))
    if kind == "model":
        in_fresh_interpreter(script, tmp_path, tmp_path / "modules")
    else:
        run_elsewhere(script)
    found = json.loads(answer.read_text())
    inputs = tokenizer(TEXT, return_tensors="pt")
    expected = model(**inputs).logits
    assert found["AutoModel"] == {task: bits(logits) for task, logits in expected.items()}
    for view in (MTSBertForSequenceClassification, MTSBertForTokenClassification):
        logits = view.from_pretrained(checkpoint).eval()(**inputs).logits
        assert found[f"AutoModel{view.__name__.removeprefix('MTSBert')}"]["view"] == bits(logits)
    assert found["pipeline"] == model.as_pipeline(tokenizer)(TEXT)


def test_a_model_loaded_from_a_folder_saves_its_code_again(checkpoint, tmp_path, run_elsewhere):
    script = f"""
from transformers import AutoModelForTokenClassification
model = AutoModelForTokenClassification.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
"""
    run_elsewhere(script)
    assert sorted(path.name for path in (tmp_path / "again").glob("*.py")) == PYTHON_FILES


@pytest.mark.parametrize(
    ("task", "check"),
    [
        ("text-classification", lambda answer: answer[0]["label"] in ("Business", "Sports")),
        ("token-classification", lambda answer: isinstance(answer, list)),
        ("feature-extraction", lambda answer: len(answer[0][0]) == 32),
    ],
)
def test_standard_pipelines_work_in_the_clone_too(checkpoint, task, check):
    assert check(pipeline(task, model=str(checkpoint), trust_remote_code=True)(TEXT))


STRATEGIES = ["none", "simple", "first", "average", "max"]
NEWS = [TEXT, "Oslo beat Lima in the final", "Nimbus Labs' shares rise — Ada Perez\r\nsells", "Lima"]


@pytest.fixture
def stock(model):
    """transformers' own classifiers of tokens and of texts, with the weights of the model."""
    encoder = model.encoder.state_dict()
    labels = dict(enumerate(model.config.tasks["ner"]["labels"]))
    tokens = BertForTokenClassification(
        BertConfig(**model.config.encoder_config.to_dict() | {"id2label": labels, "label2id": None})
    )
    tokens.bert.load_state_dict(encoder, strict=False)
    tokens.classifier.load_state_dict(model.heads["ner"].classifier.state_dict())
    return tokens.eval()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_aggregated_as_in_transformers_own_classifier(checkpoint, stock, tokenizer, strategy):
    ours = pipeline(
        "token-classification", model=str(checkpoint), trust_remote_code=True, aggregation_strategy=strategy
    )
    theirs = pipeline("token-classification", model=stock, tokenizer=tokenizer, aggregation_strategy=strategy)
    compared = 0
    for found, expected in zip(ours(NEWS), theirs(NEWS), strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
            assert one == other
            compared += 1
    assert compared > 4


def test_the_standard_pipelines_give_the_numbers_of_our_own(checkpoint, model, tokenizer):
    expected = model.as_pipeline(tokenizer)(NEWS)
    labels = pipeline("text-classification", model=str(checkpoint), trust_remote_code=True, top_k=None)(NEWS)
    states = pipeline("feature-extraction", model=str(checkpoint), trust_remote_code=True)(NEWS)
    for answer, found, state in zip(expected, labels, states, strict=True):
        assert {row["label"]: row["score"] for row in found} == pytest.approx(answer["topic"]["scores"], abs=1e-5)
        embedding = torch.nn.functional.normalize(torch.tensor(state[0]).mean(dim=0), dim=-1)
        assert embedding.tolist() == pytest.approx(answer["embedding"], abs=1e-5)


def test_the_script_that_asks_a_checkpoint_needs_no_clone(checkpoint, root, tmp_path, warm_python):
    words = ["-I", root / "recipes" / "ask.py", checkpoint, TEXT, "Lima hosts the race"]
    done = warm_python.run(*words, cwd=tmp_path, variables={"HF_MODULES_CACHE": str(tmp_path / "modules")})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert lines[1] == TEXT
    assert lines[2].startswith(("  topic: Business (", "  topic: Sports ("))
    assert lines[3].startswith("  ner: ")
    assert "Lima hosts the race" in lines


def test_a_loaded_model_goes_into_the_pipeline_as_for_any_registered_task(model, tokenizer):
    found = pipeline("multi-task", model=model, tokenizer=tokenizer, top_k=1, batch_size=2)
    assert type(found) is MTSBertPipeline
    assert found.task == "multi-task"
    assert found(NEWS) == model.as_pipeline(tokenizer, top_k=1)(NEWS, batch_size=2)


@pytest.mark.parametrize("named", [True, False])
def test_the_tokenizer_of_a_loaded_model_is_found_beside_it_or_under_a_name(checkpoint, model, tokenizer, named):
    model = model if named else MTSBertModel.from_pretrained(checkpoint)
    found = pipeline(task="multi-task", model=model, tokenizer=str(checkpoint) if named else None)
    assert found.tokenizer(NEWS)["input_ids"] == tokenizer(NEWS)["input_ids"]
    assert found(TEXT) == model.as_pipeline(tokenizer)(TEXT)


def test_a_loaded_model_without_a_tokenizer_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="No tokenizer found under ''; give one"):
        model.as_pipeline()
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"No tokenizer found under .*bare'; give one: `tokenizer=…`"):
        pipeline("multi-task", model=MTSBertModel.from_pretrained(tmp_path / "bare"))


def test_models_that_have_no_multi_task_pipeline_are_refused(checkpoint, tokenizer, encoder_folder):
    view = MTSBertForTokenClassification.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="a view of a checkpoint that answers with the head 'ner' alone"):
        pipeline("multi-task", model=view, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="for models of mtsbert; this is a BertModel"):
        pipeline("multi-task", model=BertModel.from_pretrained(encoder_folder), tokenizer=tokenizer)


def test_every_checkpoint_is_answered_for_by_the_code_that_it_came_with(checkpoint, tmp_path, run_elsewhere):
    """What is registered by the checkpoint that is loaded first does not take over the others."""
    for version in ("first", "second"):
        folder = shutil.copytree(checkpoint, tmp_path / version)
        with (folder / "pipeline_mtsbert.py").open("a") as file:
            file.write(f"MTSBertPipeline.version = {version!r}\n")
    script = f"""
import logging
import transformers
from transformers import AutoModel, pipeline

said = []
class Listener(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger().addHandler(Listener(level=logging.WARNING))
transformers.utils.logging.enable_propagation()
for version in ("first", "second", "first"):
    model = AutoModel.from_pretrained(f"{tmp_path}/{{version}}", trust_remote_code=True)
    assert pipeline("multi-task", model=model).version == version
    ask = pipeline("multi-task", model=f"{tmp_path}/{{version}}", trust_remote_code=True, top_k=1)
    assert ask.version == version
    assert len(ask({TEXT!r})["topic"]["scores"]) == 1
pipeline("multi-task", model=model).save_pretrained("{tmp_path}/again")
assert pipeline("multi-task", model="{tmp_path}/again", trust_remote_code=True).version == "first"
assert not said, said
"""
    run_elsewhere(script)
    assert sorted(path.name for path in (tmp_path / "again").glob("*.py")) == PYTHON_FILES
    settings = [json.loads((folder / "config.json").read_text()) for folder in (checkpoint, tmp_path / "again")]
    assert settings[0]["custom_pipelines"] == settings[1]["custom_pipelines"]
